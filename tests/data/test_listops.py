"""ListOps: the generator against the grammar written as its definition, the reader, the files."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from keelback.data import get_task
from keelback.data.listops_grammar import TOKENS, generate_trees, length_distribution
from keelback.data.listops_tsv import read_listops_tsv
from keelback.errors import InputError
from keelback.scan import selective_scan

SHARED = Path(__file__).parents[3] / "shared"
REFERENCE = SHARED / "data/listops"
CHECKPOINT = SHARED / "reference/checkpoints/listops_T100_seed1.pth"


def tree_by_definition(rng: random.Random, depth: int = 1) -> list[str]:
    """The grammar, one random choice after another."""
    if depth == 10 or rng.random() < 0.75:
        return [str(rng.randrange(10))]
    arguments = [tree_by_definition(rng, depth + 1) for _ in range(rng.randint(2, 10))]
    operator = rng.choice(["[MIN", "[MAX", "[MED", "[SM"])
    return [operator, *(token for argument in arguments for token in argument), "]"]


def value_by_definition(tokens: list[str]) -> int:
    """A stack machine that knows nothing of how the trees were made."""
    stack: list[list] = [[]]
    for token in tokens:
        if token == "]":
            operator, *values = stack.pop()
            assert 2 <= len(values) <= 10
            result = {
                "[MIN": min(values),
                "[MAX": max(values),
                "[MED": int(np.median(values)),
                "[SM": sum(values) % 10,
            }[operator]
            stack[-1].append(result)
        elif token.isdigit():
            stack[-1].append(int(token))
        else:
            stack.append([token])
            assert len(stack) <= 10, "an operator at depth 10"
    ((value,),) = stack
    return value


def words(ids) -> list[str]:
    return [TOKENS[i] for i in ids]


@settings(max_examples=40, deadline=None)
@given(
    low=st.integers(0, 150),
    width=st.integers(2, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_trees_are_of_the_grammar_within_the_bounds_and_have_their_value(low, width, seed):
    trees, values = generate_trees(10, low, max(low + width, 8), seed)
    assert trees.lengths.min() > low
    assert trees.lengths.max() < max(low + width, 8)
    for i in range(len(trees)):
        assert value_by_definition(words(trees[i])) == values[i]


def test_length_distribution_is_that_of_the_grammar():
    rng = random.Random(0)
    lengths = np.array([len(tree_by_definition(rng)) for _ in range(20_000)])
    chances = length_distribution(400)
    assert chances[1] == 0.75
    assert chances[2] == chances[3] == 0.0
    edges = [1, 2, 5, 8, 11, 15, 20, 30, 45, 70, 110, 180, 280, 400]
    expected = [chances[a:b].sum() for a, b in itertools.pairwise(edges)]
    observed = np.histogram(lengths[lengths < 400], edges)[0]
    expected, observed = [*expected, 1 - sum(expected)], [*observed, (lengths >= 400).sum()]
    assert stats.chisquare(observed, 20_000 * np.array(expected)).pvalue > 1e-3


def test_lengths_are_as_rare_as_the_documentation_says():
    chances = length_distribution(2000)
    assert chances[501:].sum() == pytest.approx(1 / 12, rel=0.03)
    assert chances[996:1005].sum() < 1e-3


def features(tree: list[str]) -> tuple[int, int, int, int]:
    """Operators, greatest depth, arguments of the root, digits directly under the root."""
    depth, deepest, arguments, digits = 0, 0, 0, 0
    for token in tree:
        if token == "]":
            depth -= 1
            continue
        arguments += depth == 1
        digits += depth == 1 and token.isdigit()
        depth += not token.isdigit()
        deepest = max(deepest, depth)
    return sum(not t.isdigit() for t in tree) // 2, deepest, arguments, digits


def test_trees_of_a_length_follow_the_law_that_rejection_gives():
    rng = random.Random(1)
    rejected = []
    while len(rejected) < 500:
        tree = tree_by_definition(rng)
        if 14 < len(tree) < 30:
            rejected.append(tree)
    trees, values = generate_trees(6000, 14, 30, seed=5)
    ours = [words(trees[i]) for i in range(len(trees))]
    for feature in (len, *(lambda tree, k=k: features(tree)[k] for k in range(4))):
        a, b = [feature(tree) for tree in ours], [feature(tree) for tree in rejected]
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    counts = [np.bincount([value_by_definition(t) for t in rejected]), np.bincount(values)]
    assert stats.chi2_contingency(counts).pvalue > 1e-3


def test_values_are_spread_as_in_the_documentation():
    _, values = generate_trees(20_000, 95, 105, seed=0)
    shares = np.bincount(values, minlength=10) / 20_000
    assert shares[[0, 9]] == pytest.approx([0.16, 0.16], abs=0.01)
    assert shares[1:9] == pytest.approx(np.full(8, 0.085), abs=0.015)


def test_same_seed_same_trees_whatever_the_count():
    few, few_values = generate_trees(50, 95, 105, seed=9)
    many, many_values = generate_trees(700, 95, 105, seed=9)
    assert np.array_equal(few.values, many.first(50).values[: few.offsets[-1]])
    assert np.array_equal(few_values, many_values[:50])
    other, _ = generate_trees(50, 95, 105, seed=10)
    assert not np.array_equal(few.values, other.values)


def test_no_tree_occurs_twice_in_the_two_splits():
    task = get_task("listops", min_length=0, max_length=8, n_train=400, n_test=300)
    train, test = task.train_and_test()
    rows = torch.cat([train.tokens, test.tokens]).numpy()
    assert len(np.unique(rows, axis=0)) == 700


def test_test_split_does_not_depend_on_the_size_of_the_training_split():
    small = get_task("listops", seq_len=50, n_train=10).split("test")
    large = get_task("listops", seq_len=50, n_train=500).split("test")
    assert torch.equal(small.tokens, large.tokens)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding(side):
    split = get_task("listops", seq_len=30, n_test=20, padding_side=side).split("test")
    assert split.seq_len == int(split.lengths.max())
    for row, length in zip(split.tokens, split.lengths, strict=True):
        kept = row[:length] if side == "right" else row[len(row) - length :]
        assert bool((kept < 15).all())
        assert int((row == 15).sum()) == len(row) - length


def test_too_few_trees_of_such_a_length():
    with pytest.raises(InputError, match="found 10 different trees with more than 0 and fewer"):
        generate_trees(11, 0, 2, seed=0)
    with pytest.raises(InputError, match="no tree with more than 1 and fewer than 4"):
        generate_trees(1, 1, 4, seed=0)
    with pytest.raises(InputError, match="no tree has more than 20 and fewer than 10"):
        get_task("listops", min_length=20, max_length=10).split("test")


def test_a_length_is_needed():
    with pytest.raises(InputError, match="seq_len is missing"):
        get_task("listops")


SOURCE = "( ( ( [MAX 2 ) 9 ) ] )"


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in ("Source\tTarget", *lines)))
    return path


def test_reads_a_file(tmp_path):
    path = write(tmp_path / "one.tsv", f"{SOURCE}\t9", "[SM 1 [MIN 2 3 ] ]\t3", "7\t7")
    sequences, labels = read_listops_tsv(path)
    assert [sequences[i].tolist() for i in range(3)] == [
        [11, 2, 9, 14],
        [13, 1, 10, 2, 3, 14, 14],
        [7],
    ]
    assert labels.tolist() == [9, 3, 7]
    split = get_task("listops", data=path).split("test")
    assert split.tokens[2].tolist() == [7, 15, 15, 15, 15, 15, 15]
    with pytest.raises(InputError, match="one file: give a folder"):
        get_task("listops", data=path).train_and_test()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[MAX 2 12 ]\t2", r"line 3: token '12' is not in the vocabulary"),
        ("[MAX  12 ]\t2", r"line 3: token '12' is not in the vocabulary"),
        ("[MAX 2 : ]\t2", r"line 3: token ':' is not in the vocabulary"),
        ("[AVG 2 3 ]\t2", r"line 3: token '\[AVG' is not in the vocabulary"),
        ("[MAX2 3 ]\t2", r"line 3: token '\[MAX2' is not in the vocabulary"),
        ("[MAX 2 3 é ]\t2", r"line 3: token 'é' is not in the vocabulary"),
        ("( ( ) )\t2", r"line 3: the sequence is empty"),
        ("\t2", r"line 3: the sequence is empty"),
        (f"{SOURCE}\t10", r"line 3: label '10' is not one of the classes 0 to 9"),
        (f"{SOURCE}\tx", r"line 3: label 'x' is not one of"),
        (f"{SOURCE}\t", r"line 3: label '' is not one of"),
        (SOURCE, r"line 3: 1 columns instead of 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    with pytest.raises(InputError, match=complaint):
        read_listops_tsv(write(tmp_path / "bad.tsv", f"{SOURCE}\t9", line))


@given(st.lists(st.sampled_from([*TOKENS, "(", ")", "12", "", ":", "[MI", "]]"]), max_size=8))
def test_the_fast_reader_takes_what_splitting_into_words_takes(tmp_path_factory, tokens):
    path = write(tmp_path_factory.mktemp("tsv") / "any.tsv", " ".join(tokens) + "\t1")
    kept = [token for token in tokens if token not in ("", "(", ")")]
    if kept and set(kept) <= set(TOKENS):
        assert words(read_listops_tsv(path)[0][0]) == kept
    else:
        with pytest.raises(InputError):
            read_listops_tsv(path)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none.tsv: No such file"):
        read_listops_tsv(tmp_path / "none.tsv")
    (tmp_path / "columns.tsv").write_text("text\tlabel\n1\t1\n")
    with pytest.raises(InputError, match="Source and Target, separated by a tab, not 'text'"):
        read_listops_tsv(tmp_path / "columns.tsv")
    (tmp_path / "binary.tsv").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="is not a ListOps file"):
        read_listops_tsv(tmp_path / "binary.tsv")
    with pytest.raises(InputError, match="header and no sequences"):
        read_listops_tsv(write(tmp_path / "empty.tsv"))
    with pytest.raises(InputError, match=r"line 2: the sequence has 4 tokens, more than the 3"):
        read_listops_tsv(write(tmp_path / "long.tsv", f"{SOURCE}\t9"), longest=3)
    with pytest.raises(InputError, match="there is no file or folder"):
        get_task("listops", data=tmp_path / "nowhere").split("test")


def test_folders(tmp_path):
    with pytest.raises(InputError, match=r"ends in train.tsv; found none"):
        get_task("listops", data=tmp_path).split("train")
    write(tmp_path / "T0-10_train.tsv", "1\t1", "2\t2")
    write(tmp_path / "T5-15_train.tsv", f"{SOURCE}\t9")
    with pytest.raises(InputError, match=r"found T0-10_train.tsv, T5-15_train.tsv"):
        get_task("listops", data=tmp_path).split("train")
    assert len(get_task("listops", data=tmp_path, seq_len=10).split("train")) == 1
    assert get_task("listops", data=tmp_path, seq_len=5, n_train=1).split("train").labels == 1
    with pytest.raises(InputError, match="has 2 sequences, n_train asks for 3"):
        get_task("listops", data=tmp_path, seq_len=5, n_train=3).split("train")


def multiclass_logits(state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The single block and its multiclass head, from the equations."""
    u = state["embedding.weight"][tokens]
    delta = torch.nn.functional.softplus(u @ state["ssm.q_delta"] + state["ssm.p_delta"])
    B, C = u @ state["ssm.W_B"].mT, u @ state["ssm.W_C"].mT
    y = selective_scan(u, delta[..., None], state["ssm.A"], B[:, :, None], C[:, :, None])
    assert isinstance(y, Tensor)
    return y[:, -1] @ state["W"].mT


@pytest.mark.shared
@pytest.mark.skipif(not CHECKPOINT.exists(), reason="no reference data here")
def test_the_reference_checkpoint_scores_what_it_should():
    state = torch.load(CHECKPOINT, weights_only=True, map_location="cpu")
    train, test = get_task("listops", seq_len=100, data=REFERENCE).train_and_test()
    for split, published in ((train, 0.208), (test, 0.155)):
        predicted = multiclass_logits(state, split.tokens).argmax(-1)
        assert float((predicted == split.labels).double().mean()) == pytest.approx(published)


@pytest.mark.shared
@pytest.mark.skipif(not REFERENCE.exists(), reason="no reference data here")
def test_generated_trees_resemble_the_reference_split():
    theirs, labels = read_listops_tsv(REFERENCE / "T95-105_train.tsv")
    ours, values = generate_trees(5000, 95, 105, seed=2)
    for k in range(4):
        a, b = [[features(words(r[i]))[k] for i in range(len(r))] for r in (theirs, ours)]
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    assert stats.ks_2samp(theirs.lengths, ours.lengths).pvalue > 1e-3
    assert stats.chi2_contingency([np.bincount(labels), np.bincount(values)]).pvalue > 1e-3
    assert all(value_by_definition(words(theirs[i])) == labels[i] for i in range(len(theirs)))

"""Models as short files: the code of their weights, the file and back, training for it."""

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keelback.bounds import code_length
from keelback.certify import CodedModel, CompressionRecipe, compress, read_coded_model
from keelback.certify._coded_model import CodedTensor, header_of
from keelback.certify._coder import LARGEST_ALPHABET, decode, encode
from keelback.certify._compress import Rounding, step_of
from keelback.certify._subspace import assemble, bases_of, random_matrix, rank_of, shapes_of
from keelback.errors import InputError, JobError

transformers = pytest.importorskip("transformers")


def ints(values: list[int]) -> Any:
    return np.array(values, dtype=np.int64)


@given(
    st.lists(
        st.integers(1, 40).flatmap(
            lambda top: st.tuples(st.just(top), st.lists(st.integers(0, top - 1), max_size=60))
        ),
        max_size=6,
    )
)
@settings(max_examples=200, deadline=None)
def test_what_is_coded_is_decoded(runs: list[tuple[int, list[int]]]) -> None:
    symbols = np.array([x for _, run in runs for x in run], dtype=np.int32)
    lengths, alphabets = ints([len(run) for _, run in runs]), ints([top for top, _ in runs])
    code = encode(symbols, lengths, alphabets)
    assert np.array_equal(decode(code, lengths, alphabets), symbols)


@pytest.mark.parametrize("alphabet", [1, 2, 7, LARGEST_ALPHABET])
@pytest.mark.parametrize("order", ["all the same", "uniform", "last symbol once", "sorted"])
def test_long_runs_at_the_ends_of_the_range(alphabet: int, order: str) -> None:
    """Counts are halved many times, and the coder's interval stays wide enough."""
    generator = np.random.default_rng(0)
    symbols = generator.integers(0, alphabet, 20_000)
    if order == "all the same":
        symbols[:] = alphabet - 1
    elif order == "last symbol once":
        symbols[:-1] = 0
    elif order == "sorted":
        symbols.sort()
    symbols = symbols.astype(np.int32)
    lengths, alphabets = ints([len(symbols)]), ints([alphabet])
    code = encode(symbols, lengths, alphabets)
    assert np.array_equal(decode(code, lengths, alphabets), symbols)


def test_the_code_is_about_as_long_as_the_entropy() -> None:
    generator = np.random.default_rng(1)
    symbols = np.round(generator.normal(scale=2.0, size=50_000)).astype(np.int32)
    symbols -= symbols.min()
    counts = np.bincount(symbols)
    shares = counts[counts > 0] / len(symbols)
    entropy = -float((shares * np.log2(shares)).sum())
    code = encode(symbols, ints([len(symbols)]), ints([len(counts)]))
    assert entropy <= 8 * len(code) / len(symbols) + 0.01
    assert 8 * len(code) / len(symbols) <= entropy + 0.05


def test_a_code_outside_its_alphabet_is_refused() -> None:
    symbols = np.array([0, 3], dtype=np.int32)
    with pytest.raises(InputError, match="outside its alphabet"):
        encode(symbols, ints([2]), ints([3]))
    with pytest.raises(InputError, match="do not add up"):
        encode(symbols, ints([3]), ints([4]))
    with pytest.raises(InputError, match="an alphabet must have"):
        decode(b"", ints([2]), ints([LARGEST_ALPHABET + 1]))


def small(kind: str = "mamba2", seed: int = 0, width: int = 16, *, vocab_size: int = 256) -> Any:
    torch.manual_seed(seed)
    common = {
        "vocab_size": vocab_size, "hidden_size": width, "num_hidden_layers": 1, "state_size": 4,
    }  # fmt: skip
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
    if kind == "mamba":
        config = transformers.MambaConfig(**common, **ids, tie_word_embeddings=True)
        return transformers.MambaForCausalLM(config)
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=256, hidden_size=width, intermediate_size=24, num_hidden_layers=1,
            num_attention_heads=2, **ids, tie_word_embeddings=True,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config)
    config = transformers.Mamba2Config(
        **common, **ids, head_dim=8, num_heads=width // 4, n_groups=1, chunk_size=16,
        tie_word_embeddings=True,
    )  # fmt: skip
    return transformers.Mamba2ForCausalLM(config)


TEXT = torch.frombuffer(bytearray(b"the keel keeps the hull upright. " * 60), dtype=torch.uint8)
FEW = CompressionRecipe(steps=12, batch=4, seq_len=24, learning_rate=1e-2, tokens=10**6)


@pytest.mark.parametrize("kind", ["mamba", "mamba2", "llama"])
@pytest.mark.parametrize("rank", [0, 2], ids=["all weights", "a random subspace"])
def test_a_trained_model_comes_back_from_its_file(kind: str, rank: int, tmp_path: Path) -> None:
    model = small(kind)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    recipe = CompressionRecipe(**{**vars(FEW), "rank": rank})
    coded, losses = compress(model, TEXT, recipe, context=8, window=16)
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())

    size = coded.save(tmp_path / "coded")
    assert size == (tmp_path / "coded").stat().st_size
    again = read_coded_model(tmp_path / "coded")
    assert again.to_bytes() == (tmp_path / "coded").read_bytes()
    for name, run in coded.tensors.items():
        assert np.array_equal(again.tensors[name].values, run.values)
        assert again.tensors[name].step == run.step
    built, rebuilt = coded.build(), again.build()
    for name, x in built.state_dict().items():
        assert torch.equal(x, rebuilt.state_dict()[name]), name
    tokens = TEXT[:20].long()[None]
    with torch.no_grad():
        assert torch.equal(built(tokens).logits, rebuilt(tokens).logits)


def test_a_subspace_takes_fewer_bits_than_all_weights(tmp_path: Path) -> None:
    sizes = []
    for rank in (0, 1):
        recipe = CompressionRecipe(**{**vars(FEW), "rank": rank, "steps": 2})
        coded, _ = compress(small(width=128), TEXT, recipe, context=8, window=16)
        sizes.append(coded.save(tmp_path / str(rank)))
    assert sizes[1] < sizes[0] / 2
    assert code_length(sizes[1]) < code_length(sizes[0])


def test_matrices_are_random_ones_plus_products_of_coded_factors() -> None:
    """Embeddings and what is no matrix are coded themselves; rates start at 1, ..., N."""
    model = small("mamba", width=32)
    named = dict(model.named_parameters())
    shapes, bases = shapes_of(model, 2), bases_of(model, 2, seed=5)
    assert "backbone.embeddings.weight" in shapes
    assert set(shapes) == {
        *(name for name in named if name not in bases),
        *(f"{name} {side}" for name in bases for side in ("left", "right")),
    }
    assert all(named[name].ndim == 2 for name in bases)
    rates = bases["backbone.layers.0.mixer.A_log"]
    assert torch.allclose(rates.exp(), torch.arange(1.0, 5.0).expand(64, 4))
    inner = bases["backbone.layers.0.mixer.in_proj.weight"]
    assert inner.std() * math.sqrt(32) == pytest.approx(1, abs=0.03)
    assert abs(inner.mean()) * math.sqrt(32) < 0.03
    assert not torch.equal(
        inner, bases_of(model, 2, seed=6)["backbone.layers.0.mixer.in_proj.weight"]
    )

    coded = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    weights = assemble(coded, bases)
    assert {name: x.shape for name, x in weights.items()} == {
        name: x.shape for name, x in named.items()
    }
    for name, base in bases.items():
        rank = coded[f"{name} left"].shape[1]
        assert rank == rank_of(name, base.shape, 2) == max(1, min(2, min(base.shape) // 4))
        assert torch.linalg.matrix_rank(weights[name].detach() - base) == rank
    sum(x.sum() for x in weights.values()).backward()
    assert all(x.grad is not None for x in coded.values())


def test_a_random_matrix_is_the_same_everywhere() -> None:
    """From integers of a counter generator alone: these are its first weights, for good."""
    found = random_matrix(7, 3, torch.Size((2, 3))).double() / math.sqrt(4)
    bits = np.random.Philox(key=[7, 3]).random_raw(6) >> np.uint64(40)
    expected = (bits.astype(np.float64) + 0.5) / 2**24 - 0.5
    assert np.allclose(found.numpy().ravel(), expected, atol=1e-7)


def test_a_step_learns_by_how_far_it_moves_the_weights() -> None:
    start = {"other": torch.ones(2, 2), "own": torch.tensor([0.26, -0.7, 0.04])}
    trained = Rounding.of(start, 3.0, torch.device("cpu"))
    with torch.no_grad():
        trained.log_steps.copy_(torch.tensor([1.0, 0.1]).log())
    rounded = trained.rounded()["own"]
    assert torch.allclose(rounded.detach(), torch.tensor([0.3, -0.7, 0.0]))
    slopes = torch.tensor([1.0, 2.0, 3.0])
    (rounded * slopes).sum().backward()
    assert trained.weights.grad is not None
    assert trained.log_steps.grad is not None
    assert trained.weights.grad.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0]
    moved = rounded.detach() - start["own"]
    expected = [0.0, float((moved * slopes).sum())]
    assert trained.log_steps.grad.tolist() == pytest.approx(expected, abs=1e-6)
    assert trained.coded()["own"].values.tolist() == [3, -7, 0]


def test_soft_bits_are_about_the_length_of_the_code() -> None:
    generator = np.random.default_rng(2)
    start = {
        "a": torch.from_numpy(generator.laplace(size=30_000).astype(np.float32)),
        "b": torch.from_numpy(generator.laplace(scale=9, size=(100, 100)).astype(np.float32)),
    }
    trained = Rounding.of(start, 4.0, torch.device("cpu"))
    runs = trained.coded().values()
    symbols = np.concatenate([run.values.ravel() - run.values.min() for run in runs])
    widths = [int(run.values.max() - run.values.min()) + 1 for run in runs]
    code = encode(symbols.astype(np.int32), ints([30_000, 10_000]), ints(widths))
    assert float(trained.soft_bits().detach()) == pytest.approx(8 * len(code), rel=0.02)


def test_a_seed_without_a_rank_is_refused() -> None:
    for settings_ in ({"seed": 3}, {"rank": 3}):
        with pytest.raises(ValueError, match="a subspace needs a seed and a rank"):
            header_of(small(), context=8, window=16, **settings_)


def test_fewer_bits_per_weight_give_a_shorter_file() -> None:
    sizes = []
    for bits in (1.5, 3.0, 6.0):
        recipe = CompressionRecipe(**{**vars(FEW), "bits": bits, "steps": 0})
        coded, losses = compress(small(), TEXT, recipe, context=8, window=16)
        assert losses == []
        sizes.append(len(coded.to_bytes()))
    assert sizes == sorted(sizes)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """Every cut and every changed byte: an error in one line, or another model's own file."""
    recipe = CompressionRecipe(**{**vars(FEW), "steps": 0, "rank": 1})
    coded, _ = compress(small(), TEXT, recipe, context=8, window=16)
    content = coded.to_bytes()
    path = tmp_path / "coded"
    drawn = np.random.default_rng(3).integers(0, len(content), 12).tolist()
    places = [*drawn, 0, 24, len(content)]
    for place in places:
        path.write_bytes(content[:place])
        if place < len(content):
            with pytest.raises(InputError):
                read_coded_model(path)
    path.write_bytes(content + b"0")
    with pytest.raises(InputError, match="damaged"):
        read_coded_model(path)
    for place in places[:-1]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
        with contextlib.suppress(InputError):
            assert read_coded_model(path).to_bytes() == path.read_bytes() != content


def test_weights_that_cannot_be_coded_are_refused() -> None:
    header = header_of(small(), context=8, window=16)
    wide = CodedTensor(np.array([0, LARGEST_ALPHABET], dtype=np.int32), 1.0)
    with pytest.raises(InputError, match="more than 4096 values"):
        CodedModel(header, {"x": wide}).to_bytes()
    with pytest.raises(InputError, match="not a language model of transformers"):
        header_of(torch.nn.Linear(2, 2), context=8, window=16)
    with pytest.raises(InputError, match="too few for windows"):
        compress(small(), TEXT[:20], FEW, context=8, window=16)
    with pytest.raises(InputError, match="bits = 0"):
        CompressionRecipe(bits=0)
    model = small()
    with torch.no_grad():
        model.backbone.norm_f.weight.fill_(math.nan)
    with pytest.raises((InputError, JobError)):
        compress(model, TEXT, FEW, context=8, window=16)


def test_the_step_has_the_entropy_that_was_asked_for() -> None:
    weights = torch.randn(200, 200, generator=torch.Generator().manual_seed(0))
    values = torch.round(weights / step_of(weights, 3.0)).to(torch.int64)
    _, counts = values.unique(return_counts=True)
    shares = counts / counts.sum()
    assert -float((shares * shares.log2()).sum()) == pytest.approx(3.0, abs=0.02)
    assert step_of(torch.zeros(3), 3.0) == 1 / 16
    assert step_of(torch.full((3,), 0.5), 3.0) == 0.5 / 16

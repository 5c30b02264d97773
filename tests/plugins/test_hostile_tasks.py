"""Tasks whose data are wrong never score: one line with file and line, whatever is wrong."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plugin_files import TASK

from keelback import load_plugin
from keelback.data import Split, get_task
from keelback.data.split import checked_split
from keelback.errors import InputError, PluginError
from keelback.models import SelectiveSSMConfig, save_model

Cli = Callable[..., tuple[int, str, str]]

SPLIT_LINE = 1 + TASK[: TASK.index("    def split")].count("\n")
RETURN_LINE = 1 + TASK[: TASK.index("        return Split(")].count("\n")
GIVEN = "        return Split(bits, bits.sum(1) % 2, torch.full((count,), settings.seq_len))"
assert GIVEN in TASK

WRONG = {
    "None": ("return None", "None is no keelback.data.Split"),
    "a tuple": ("return (bits, bits, bits)", "a tuple is no keelback.data.Split"),
    "the class": ("return Split", "a type is no"),
    "lists": ("return Split([[0]], [0], [1])", "tokens is a list"),
    "arrays": ("return Split(bits.numpy(), bits[:, 0], bits[:, 0] + 1)", "tokens is a ndarray"),
    "no labels": ("return Split(bits, None, bits[:, 0] + 1)", "TypeError"),
    "labels outside": ("return Split(bits, bits[:, 0] + 2, one)", "example 0 is [23]; there are 2"),
    "negative labels": ("return Split(bits, bits[:, 0] - 1, one)", "is -1"),
    "one label outside": (
        "bits = bits.clone(); y = bits[:, 0].clone(); y[7] = 9; return Split(bits, y, one)",
        "label of example 7 is 9",
    ),
    "float labels": ("return Split(bits, bits[:, 0] / 2, one)", r"labels is float32 of shape"),
    "bool labels": ("return Split(bits, bits[:, 0] > 0, one)", "labels is bool"),
    "a table of labels": ("return Split(bits, bits[:, :1], one)", r"int64 of shape \(\d+, 1"),
    "too few labels": ("return Split(bits, bits[1:, 0], one)", "one label and one length for each"),
    "tokens outside": ("return Split(bits + 1, bits[:, 0], one)", "token of example .* is 2; the"),
    "negative tokens": ("return Split(bits - 1, bits[:, 0], one)", "is -1; the vocabulary has 2"),
    "float tokens": ("return Split(bits * 1.0, bits[:, 0], one)", "tokens is float32"),
    "NaN tokens": ("return Split(bits * float('nan'), bits[:, 0], one)", "tokens is float32"),
    "complex tokens": ("return Split(bits * 1j, bits[:, 0], one)", "tokens is complex64"),
    "one axis": ("return Split(bits[:, 0], bits[:, 0], one)", r"tokens is int64 of shape \(\d+,\)"),
    "three axes": ("return Split(bits[..., None], bits[:, 0], one)", "2 axes"),
    "no examples": ("return Split(bits[:0], bits[:0, 0], one[:0])", "0 sequences of 4 tokens"),
    "no length": ("return Split(bits[:, :0], bits[:, 0], one)", "sequences of 0 tokens"),
    "zero length": ("return Split(bits, bits[:, 0], 0 * one)", "length of example 0 is 0"),
    "negative length": ("return Split(bits, bits[:, 0], -one)", "length of example 0 is -1"),
    "too long": ("return Split(bits, bits[:, 0], 5 * one)", "is 5; the sequences are padded to 4"),
    "huge length": ("return Split(bits, bits[:, 0], one * 2**62)", "padded to 4 tokens"),
    "no values": ("return Split(bits.to('meta'), bits[:, 0], one)", "on meta"),
    "sparse": ("return Split(bits.to_sparse(), bits[:, 0], one)", "sparse_coo tensor"),
    "text": ("return 'train'", "a str is no"),
}  # fmt: skip
RAISED = {
    "ZeroDivisionError": "1 / 0",
    "KeyError": "{}['x']",
    "SystemExit: 0": "raise SystemExit(0)",
    "MemoryError": "raise MemoryError",
    "RecursionError": "self.split(name)",
    "StopIteration": "next(iter(()))",
    "GeneratorExit": "raise GeneratorExit",
    "Exit": "import typer; raise typer.Exit(0)",
    "Abort": "import typer; raise typer.Abort",
    "OSError: the disk": "raise OSError('the disk\\n is gone')",
    "row 3 of x": "from keelback.errors import InputError; raise InputError('row 3 of x')",
    "no padding id": "self.collate([[1], [1, 0]])",
    "2 validation errors|seq_len is missing": "self.settings_type.model_validate({})",
}


def write_task(returned: str) -> None:
    body = f"        one = torch.ones(count, dtype=torch.int64)\n        {returned}"
    Path("parity.py").write_text(TASK.replace(GIVEN, body))


@pytest.fixture
def checkpoint() -> Path:
    path = Path("model.safetensors")
    save_model(SelectiveSSMConfig(vocab_size=2).build(torch.Generator().manual_seed(0)), path)
    return path


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_data_never_score(cli: Cli, checkpoint: Path, fault: str) -> None:
    returned, complaint = WRONG[fault]
    write_task(returned)
    code, out, err = cli("evaluate", checkpoint, "--task", "parity.py", "--seq-len", "4", "--json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.match(r"error: parity\.py:\d+: ", err)
    assert re.search(complaint, err)
    raised = "TypeError" in err or "ValueError" in err
    assert raised or err.startswith(f"error: parity.py:{SPLIT_LINE}: task parity, test split: ")


@pytest.mark.parametrize("said", RAISED)
def test_what_a_task_raises_is_one_line_with_its_place(
    cli: Cli, checkpoint: Path, said: str
) -> None:
    write_task(RAISED[said])
    code, out, err = cli("evaluate", checkpoint, "--task", "parity.py", "--seq-len", "4")
    assert (code, out, err.count("\n")) == (2, "", 1)
    line = SPLIT_LINE + 1 if said == "RecursionError" else RETURN_LINE + 1
    assert err.startswith("error: parity.py:")
    assert said == "RecursionError" or err.startswith(f"error: parity.py:{line}: ")
    assert re.search(said, err)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        *(
            (
                f"    {name} = 2\n",
                f"    @property\n    def {name}(self): return {value}\n",
                complaint,
            )
            for name, value, complaint in [
                ("vocab_size", "None", "vocab_size of the task parity is None"),
                ("vocab_size", "1 / 0", "ZeroDivisionError"),
                ("vocab_size", "True", "vocab_size of the task parity is True"),
                ("n_classes", "2.0", "n_classes of the task parity is 2.0"),
            ]
        ),
        (
            "    n_classes = 2\n",
            "    n_classes = 2\n    def fingerprint(self): return 7\n",
            "fingerprint of the task parity is 7",
        ),
        ("ge=1)\n", "ge=1)\n    deep: int\n", "deep is missing"),
    ],
)
def test_what_a_task_says_of_itself_is_checked(
    cli: Cli, old: str, new: str, complaint: str
) -> None:
    Path("parity.py").write_text(TASK.replace(old, new, 1))
    code, out, err = cli("train", "--task", "parity.py", "--seq-len", "4", "--out", "new")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert not Path("new").exists()


LABELS = "Split(bits, bits.sum(1) % 2, "
DEF, USE = "    def split(self, name):\n", "        settings = self.settings\n"
WITHOUT_SELF = "        settings = ParitySettings(seq_len=4)\n"
OTHER_METHODS = {
    "class method": "    @classmethod\n    def split(cls, name):\n" + WITHOUT_SELF,
    "static method": "    @staticmethod\n    def split(name):\n" + WITHOUT_SELF,
    "cached": "    import functools\n    @functools.cache\n" + DEF + USE,
    "partial": "    import functools\n    def _split(self, more, name):\n" + USE,
    "on the object": "    def split(self, name): 1 / 0\n    def _split(self, name):\n" + USE,
}


@pytest.mark.parametrize("way", OTHER_METHODS)
def test_no_way_to_write_the_method_goes_round_the_check(
    cli: Cli, checkpoint: Path, way: str
) -> None:
    text = TASK.replace(DEF + USE, OTHER_METHODS[way])
    assert text != TASK
    if way == "partial":
        text += "\n    split = functools.partialmethod(_split, 1)\n"
    if way == "on the object":
        text += (
            "\n    def __init__(self, settings):\n        super().__init__(settings)\n"
            "        self.split = self._split\n"
        )
    evaluate = ("evaluate", checkpoint, "--task", "parity.py", "--seq-len", "4")
    for labels, passes in (("% 2, ", way != "on the object"), ("+ 5, ", False)):
        Path("parity.py").write_text(text.replace(LABELS, LABELS.replace("% 2, ", labels)))
        code, out, err = cli(*evaluate)
        assert (code, err.count("\n")) == ((0, 0) if passes else (2, 1)), err
        assert bool(out) == passes
    assert ("is set on the object" if way == "on the object" else "there are 2 classes") in err


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("def train_and_test(self): return None", "train_and_test() gives None, not two splits"),
        ("def train_and_test(self): return (None, None)", "train split: None is no keelback.data"),
        ("def fresh(self): return None", "fresh() gives None, not a task"),
    ],
)
def test_what_stands_for_splits_is_checked_too(
    cli: Cli, checkpoint: Path, line: str, complaint: str
) -> None:
    text = TASK.replace(
        "    n_classes = 2\n", f"    n_classes = 2\n    shifted_test = True\n    {line}\n"
    )
    Path("parity.py").write_text(text)
    code, out, err = cli("certify", checkpoint, "--task", "parity.py", "--seq-len", "4")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert re.match(r"error: parity\.py:\d+: ", err)


COMMANDS = {
    "train": "train --task parity.py --seq-len 4 --epochs 1 --out new",
    "evaluate": "evaluate model.safetensors --task parity.py --seq-len 4",
    "certify": "certify model.safetensors --task parity.py --seq-len 4",
    "reproduce": "reproduce length-independence --task parity.py --seq-len 4 --seeds 1 --out new",
    "all": "reproduce all --task parity.py --seq-len 4 --seeds 1 --out new",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", ["labels outside", "None"])
def test_no_command_takes_wrong_data(cli: Cli, checkpoint: Path, command: str, fault: str) -> None:
    returned, complaint = WRONG[fault]
    write_task(returned)
    code, out, err = cli(*COMMANDS[command].split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: parity.py:{SPLIT_LINE}: ")
    assert re.search(complaint, err)
    assert not Path("new").exists()


def test_narrow_and_wide_integers_are_taken() -> None:
    for kind in ("uint8", "int8", "int16", "int32", "int64"):
        write_task(f"return Split(bits.to(torch.{kind}), bits[:, 0].to(torch.{kind}), one)")
        load_plugin("parity.py")
        split = get_task("parity", seq_len=3).split("train")
        assert (split.tokens.dtype, split.labels.dtype) == (torch.int32, torch.int64)


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


@st.composite
def splits(draw: st.DrawFn) -> tuple[Split, int, int]:
    """Any split of integer tensors, mostly a right one, with a vocabulary and classes."""
    examples, length = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    vocab_size, n_classes = draw(st.integers(1, 300)), draw(st.integers(2, 300))
    wild = st.integers(-(2**62), 2**62)

    def table(shape: tuple[int, ...], low: int, high: int) -> torch.Tensor:
        kind = draw(st.sampled_from(INTEGERS))
        limits = torch.iinfo(kind)
        inside = st.integers(max(low, limits.min), min(high, limits.max))
        values = torch.empty(shape, dtype=torch.int64).flatten()
        for i in range(len(values)):
            value = draw(wild) if draw(st.integers(0, 60)) == 0 else draw(inside)
            values[i] = min(max(value, limits.min), limits.max)
        return values.view(shape).to(kind)

    split = Split(
        table((examples, length), 0, vocab_size - 1),
        table((examples,), 0, n_classes - 1),
        table((examples,), 1, length),
    )
    return split, vocab_size, n_classes


@settings(max_examples=300, deadline=None)
@given(splits())
def test_a_split_is_taken_if_and_only_if_its_values_are_right(
    made: tuple[Split, int, int],
) -> None:
    split, vocab_size, n_classes = made
    lists = [x.tolist() for x in (split.tokens, split.labels, split.lengths)]
    right = (
        all(0 <= token < vocab_size for row in lists[0] for token in row)
        and all(0 <= label < n_classes for label in lists[1])
        and all(1 <= length <= split.seq_len for length in lists[2])
    )
    if right:
        checked = checked_split(split, vocab_size, n_classes)
        assert [x.tolist() for x in (checked.tokens, checked.labels, checked.lengths)] == lists
    else:
        with pytest.raises(InputError, match=r"the (token|label|length) of example \d+"):
            checked_split(split, vocab_size, n_classes)


ANYTHING = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(0, 1), max_size=3),
    st.sampled_from([torch.zeros(2, 2), torch.zeros(2), torch.zeros(2, 2, 2).long(), {}, Split]),
    st.sampled_from([torch.zeros(2, 2).bool(), torch.zeros(2, 2).double(), torch.tensor(1)]),
)


@settings(max_examples=200, deadline=None)
@given(tokens=ANYTHING, labels=ANYTHING, lengths=ANYTHING)
def test_other_types_are_refused_by_name(tokens: object, labels: object, lengths: object) -> None:
    odd = object.__new__(Split)
    for name, value in (("tokens", tokens), ("labels", labels), ("lengths", lengths)):
        object.__setattr__(odd, name, value)
    with pytest.raises(InputError, match=r"^(tokens|labels|lengths) is "):
        checked_split(odd, 2, 2)


def test_in_python_a_task_raises_what_its_code_raises() -> None:
    write_task("1 / 0")
    load_plugin("parity.py")
    with pytest.raises(ZeroDivisionError):
        get_task("parity", seq_len=2).split("test")
    write_task(WRONG["labels outside"][0])
    load_plugin("parity.py")
    with pytest.raises(PluginError, match=rf"parity.py:{SPLIT_LINE}: "):
        get_task("parity", seq_len=2).split("test")

"""Options that several commands share, and the check of every number that a command is given."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keelback.cli.parameters import parameter_of

LARGEST_SEED = 2**32 - 1
_LARGEST = 2**63 - 1

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
"""The option of every command that can print its result for programs."""

OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="File for the result as JSON, written after each row; the same command given again "
        "measures only the rows that it lacks; by default none; e.g. result.json.",
    ),
]
"""The option of every benchmark whose result is one file."""

OutFolder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the results, written after each row; the same command given again "
        "measures only the rows that they lack; by default none; e.g. out.",
    ),
]
"""The option of the benchmarks whose result is a JSON file and a table."""

TaskName = Annotated[
    str,
    typer.Option(
        "--task",
        help="Task: a name from `keelback list`, or a file that registers one; e.g. majority.",
    ),
]
SeqLen = Annotated[
    int | None,
    typer.Option(
        "--seq-len",
        min=1,
        help="Sequence length T in tokens; by default the longest of the task's preset; e.g. 100.",
    ),
]
SeqLenOfTask = Annotated[
    int | None,
    typer.Option(
        "--seq-len",
        min=1,
        help="Sequence length T in tokens; needed where the task has no default; e.g. 100.",
    ),
]
DataSeed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=LARGEST_SEED,
        help="Seed of the task's data, a whole number; the task's own by default; e.g. 1.",
    ),
]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder or file of the task's data; by default downloaded, where the task loads "
        "any; e.g. data/imdb.",
    ),
]
TokenizerFile = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        help="Vocabulary file of a text task; by default that of BERT from the Hub; e.g. "
        "vocab.txt.",
    ),
]
TaskSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Another setting of the task, NAME=VALUE; may be repeated; by default none; e.g. "
        "n_test=1000.",
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(help="Model: a folder, a checkpoint, or a name on the Hub; e.g. ./my-mamba."),
]
Ignored = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        help="Name of a setting or tensor that the model may leave unused; none by default; may "
        "be repeated; e.g. --ignore visual.proj.",
    ),
]
Checkpoint = Annotated[
    Path,
    typer.Argument(
        help="Checkpoint of a classifier: .safetensors, the folder of a run, or .pth of the "
        "reference code; e.g. out/runs/NAME/model.safetensors."
    ),
]
Text = Annotated[
    Path | None,
    typer.Option(
        "--text", help="Text file to run on, UTF-8; a bundled text by default; e.g. book.txt."
    ),
]
Tokens = Annotated[
    Path | None,
    typer.Option(
        "--tokens",
        help="File of token ids to run on instead of a text: .npy, .json or numbers; by default "
        "none; e.g. ids.npy.",
    ),
]
TokenizerName = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Tokenizer of the text: tokenizer.json, a folder, a name on the Hub, or bytes; the "
        "model's own by default; e.g. bytes.",
    ),
]
TrainLength = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Length in tokens that the model was trained on; by default from its configuration; "
        "e.g. 2048.",
    ),
]
DeviceOrBest = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Device to compute on, cpu or cuda; by default cuda where there is a GPU; e.g. cpu.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="Device to compute on, cpu or cuda.")]
DType = Annotated[
    str, typer.Option("--dtype", help="Type of the tensors: float32, float64, bfloat16 or float16.")
]
DTypeOfDevice = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Type of the inputs: float32, bfloat16 or float16; by default float32 on a CPU "
        "and bfloat16 on a GPU; e.g. bfloat16.",
    ),
]
Repeats = Annotated[
    int,
    typer.Option(
        "--repeats", min=1, max=1_000_000, help="Number of timed runs of each; the median counts."
    ),
]


def refuse_beside(what: str, given: Mapping[str, Any], command: Callable[..., Any]) -> None:
    """Refuse an option that would have no effect.

    Args:
        what: beside which option, as it was given: `--cost`.
        given: the values of the options that `what` leaves without effect, by their parameters.
        command: the command, whose signature has their defaults.

    Raises:
        InputError: one of them is not its default.
    """
    from keelback.errors import InputError

    for name, value in given.items():
        parameter = parameter_of(command, name)
        if value != parameter.default and value != []:
            option = parameter.flags[-1] if parameter.flags else parameter.name
            raise InputError(f"{option} has no effect beside {what}; leave one of them out")


def require_once(settings: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse a setting that is given twice, by --set or by an option of its own as well.

    Args:
        settings: what --set was given, each NAME=VALUE.
        options: the values of the options that are settings too, by the settings' names.

    Raises:
        InputError: one is.
    """
    from keelback.errors import InputError

    names = [pair.partition("=")[0] for pair in settings]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--set {name} is given twice; leave one of them out")
    for name, value in options.items():
        if name in names and value is not None:
            own = name.rpartition(".")[2]
            option = _OWN_OPTIONS.get(own, f"--{own.replace('_', '-')}")
            raise InputError(f"{option} and --set {name} are one setting; leave one of them out")


_OWN_OPTIONS = {"spectral_abscissa": "--abscissa"}
"""Options that are not called as their settings are."""


def require_numbers(options: Mapping[str, Any]) -> None:
    """Check that every number among a command's options is one that arithmetic can be done with.

    Raises:
        InputError: one is infinite, not a number, or a whole number of more than 64 bits.
    """
    for name, value in options.items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            _require_number(name, number)


def _require_number(name: str, number: Any) -> None:
    from keelback.errors import InputError

    option = f"--{name.replace('_', '-')}"
    if isinstance(number, float) and not math.isfinite(number):
        raise InputError(f"{option} is {number}; it must be a finite number")
    if isinstance(number, int) and abs(number) > _LARGEST:
        raise InputError(f"{option} is {number}; a whole number here is at most {_LARGEST}")

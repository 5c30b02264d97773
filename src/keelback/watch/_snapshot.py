"""What is to be seen of a folder at one moment, without anything of how it is shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from keelback.errors import InputError, printable

State = Literal["under way", "stopped", "finished", "unknown"]
RunState = Literal["finished", "diverged", "under way", "kept"]

Points = Sequence[tuple[float, float]]
"""A curve: epoch or step, and value; both finite."""

LONGEST_TEXT = 80
"""Characters of a name or a value of the folder that are shown."""


@dataclass(frozen=True)
class RunView:
    """One run: what tells it from others, how far it is, and its curves by the name of a column.

    `diverged` is a finished run with that result. `kept` is a training that has a checkpoint, of
    which is not known whether a process works on it.

    Examples:
        >>> RunView("4f2a", "finished", scores={"loss": 0.1}).scores["loss"]
        0.1
    """

    name: str
    state: RunState
    setting: str = ""
    epoch: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """An experiment that the store serves: how many runs it plans, and how far they are.

    Examples:
        >>> plan = Plan("length", planned=6, finished=4, under_way=2, survived=3)
        >>> plan.finished - plan.survived  # diverged
        1
    """

    name: str
    planned: int
    finished: int
    under_way: int
    survived: int
    seconds_left: float | None = None


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seeds; `planned` is None where no plan has them.

    Examples:
        >>> Group("seq_len 25", planned=3, finished=3, under_way=0, survived=2).survived
        2
    """

    setting: str
    planned: int | None
    finished: int
    under_way: int
    survived: int
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Alarm:
    """Something that a person should look at; `weight` is "problem" or "warning".

    Examples:
        >>> Alarm("4f2a", "diverged in epoch 3").weight
        'problem'
    """

    where: str
    message: str
    weight: Literal["problem", "warning"] = "problem"


@dataclass(frozen=True)
class Snapshot:
    """A folder at one moment.

    `line` says in one sentence where it stands, `left` how long it will take or why that is not
    known. `x_label` is what curves are drawn against. Texts that come from the folder are on one
    line and without control characters, and are to be escaped by whoever shows them.

    Examples:
        >>> seen = Snapshot("out", "sweep", "finished", "finished: 1 run")
        >>> seen.to_json()["state"]
        'finished'
    """

    directory: str
    kind: Literal["sweep", "trainer"]
    state: State
    line: str
    left: str = ""
    seconds_left: float | None = None
    x_label: str = "epoch"
    plans: Sequence[Plan] = ()
    groups: Sequence[Group] = ()
    runs: Sequence[RunView] = ()
    alarms: Sequence[Alarm] = ()
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """The snapshot as JSON values; numbers are finite."""
        return asdict(self)


def require_inside(path: Path, folder: Path) -> None:
    """Check that a path of the folder stays in it, once links are followed.

    Raises:
        InputError: it leads elsewhere.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} leads out of {folder}; it was not read")


def finite(value: object) -> float | None:
    """`value` as a number if it is a finite one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def short(value: object) -> str:
    """A name or value of the folder, fit to be shown: on one line, and not too long."""
    text = f"{value:.4g}" if isinstance(value, float) else printable(str(value))
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def curves_of(rows: Sequence[Mapping[str, Any]], x_column: str) -> dict[str, Points]:
    """Every column of numbers as a curve; a row without a finite number has no point in it."""
    found: dict[str, list[tuple[float, float]]] = {}
    for index, row in enumerate(rows):
        at = finite(row.get(x_column, index))
        for column, value in row.items():
            number = finite(value)
            if column != x_column and at is not None and number is not None:
                found.setdefault(short(column), []).append((at, number))
    return dict(found)


def counted(count: int, what: str, several: str = "") -> str:
    """A count with its noun: "1 run", "2 runs"."""
    return f"{count} {what if count == 1 else several or what + 's'}"


FIRST_CURVES = (
    "loss",
    "eval_loss",
    "running_accuracy",
    "s_A",
    "growth",
    "gradient_norm",
    "grad_norm",
    "keelback/log_growth",
    "keelback/spectral_abscissa",
)
"""Curves by how much they say of a training that is under way."""


def chosen_curves(runs: Sequence[RunView], count: int) -> list[str]:
    """The names of the curves to show: those of `FIRST_CURVES`, then what else the runs have."""
    there = dict.fromkeys(name for run in runs for name in run.curves)
    first = [name for name in FIRST_CURVES if name in there]
    return [*first, *(name for name in there if name not in first)][:count]

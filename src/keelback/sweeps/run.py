"""A run: one training, named by the hash of everything that decides its numbers."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python
from torch import Tensor

from keelback.errors import InputError, describe, nearest
from keelback.plugins import check_output, digests, located
from keelback.registry import Registry, is_from_outside

Scalar = float | int | str | bool | None

Progress = Callable[[float], None]
"""Called with the share of a batch of runs that is done, from 0 to 1."""

NAME_LENGTH = 16


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: a row of scalars, a table with a row per epoch, and weights.

    Where there are weights, `model` is the configuration that builds the model they belong to.

    Examples:
        >>> RunResult(summary={"test_accuracy": 0.9, "diverged": False}).summary["diverged"]
        False
    """

    summary: Mapping[str, Scalar]
    history: Sequence[Mapping[str, Scalar]] = ()
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    model: Any = None


class Run(BaseModel, ABC):
    """The full configuration of one run. Subclasses add fields and say how runs are executed.

    Examples:
        >>> model = {"kind": "selective-ssm", "vocab_size": 2}
        >>> run = TrainingRun(task="majority", task_settings={"seq_len": 50}, model=model, seed=1)
        >>> isinstance(run, Run)
        True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if "kind" in cls.__dict__:
            _KINDS.add(cls.kind, cls)
        if is_from_outside(cls):
            for method, check in _CHECKS.items():
                check_output(cls, method, check)

    def parts(self) -> dict[str, object]:
        """The code that decides the run's numbers and may come from outside: its class, its task.

        A class of runs that uses other registered parts adds them, each under a name of its own.
        """
        return {"run": type(self)}

    def fields(self) -> dict[str, Any]:
        """The configuration as JSON values, `kind` included.

        Where parts come from plugin files, `plugins` has the digest of each part's file, so that a
        run of other code has another name.
        """
        fields = {"kind": self.kind, **self.model_dump(mode="json")}
        plugins = digests(self.parts())
        return {**fields, "plugins": plugins} if plugins else fields

    def circumstances(self) -> dict[str, Any]:
        """Fields that are not part of the configuration (`exclude=True`), as JSON values."""
        apart = [name for name, field in type(self).model_fields.items() if field.exclude]
        return {name: to_jsonable_python(getattr(self, name)) for name in apart}

    @property
    def name(self) -> str:
        """`name_of` the configuration."""
        return name_of(self.fields())

    def batch_key(self) -> str:
        """Runs with the same key are executed together, as one batch. By default none are."""
        return self.name

    def cost(self) -> float:
        """How long the run takes beside others, in any unit; expensive runs are started first."""
        return 1.0

    def memory(self) -> int:
        """Roughly how many bytes the run needs beside others of its batch; 0 where it is little."""
        return 0

    def require_room(self) -> None:
        """Check, before any work, that this machine has the memory that the run's sizes need.

        Raises:
            InputError: it has not. By default nothing is checked.
        """

    @classmethod
    @abstractmethod
    def execute(cls, runs: Sequence[Self], progress: Progress) -> Iterator[tuple[Self, RunResult]]:
        """Execute runs of one batch and give each with its result, in any order."""


def _check_batch_key(run: Run, key: object) -> str:
    if isinstance(key, str):
        return key
    raise InputError(f"the batch_key of a {run.kind} run is {key!r:.60}, not a text")


def _check_cost(run: Run, cost: object) -> float:
    if isinstance(cost, int | float) and 0 <= cost < math.inf:
        return cost
    raise InputError(f"the cost of a {run.kind} run is {cost!r:.60}, not a number from 0 up")


def _check_memory(run: Run, memory: object) -> int:
    if isinstance(memory, int) and memory >= 0:
        return memory
    raise InputError(f"the memory of a {run.kind} run is {memory!r:.60}, not a number of bytes")


def _check_fields(run: Run, fields: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"the fields of a {run.kind} run are not JSON: {error}") from None
    return fields


_CHECKS: dict[str, Any] = {
    "batch_key": _check_batch_key,
    "cost": _check_cost,
    "memory": _check_memory,
    "fields": _check_fields,
}
"""What is asked of the methods of runs from outside."""


_KINDS: Registry[type[Run]] = Registry("kind of run")
"""The classes of runs by the `kind` that names them in a configuration."""


def results_of(runs: Sequence[Run], progress: Progress) -> Iterator[tuple[Run, RunResult]]:
    """Execute runs of one class and batch; each result is checked before it is stored.

    Raises:
        InputError: what `execute` gives is no pair of one of `runs` and a `RunResult` of plain
            numbers and texts, or it ends without a result for one of them.
    """
    made = type(runs[0])
    given: Any = made.execute(runs, progress)
    left = {id(run): run for run in runs}
    try:
        if not isinstance(given, Iterable):
            raise _ResultError(f"execute() gives {given!r:.60}, not results")
        for pair in given:
            run, result = _checked_result(pair)
            if id(run) not in left:
                run = next((other for other in left.values() if other == run), None)
            if run is None:
                raise _ResultError("a result is for none of the runs that it was to execute")
            del left[id(run)]
            yield run, result
        for run in left.values():
            raise _ResultError(f"execute() ended without a result for run {run.name}")
    except _ResultError as error:
        raise located(InputError(f"{made.kind} run: {error}"), made, made.execute) from None


def _checked_result(given: object) -> tuple[Any, RunResult]:
    if not isinstance(given, tuple) or [type(part) for part in given[1:]] != [RunResult]:
        raise _ResultError(f"{given!r:.60} is no pair of a run and its RunResult")
    run, result = given
    for key, value in result.summary.items():
        if not isinstance(key, str) or not isinstance(value, Scalar):
            raise _ResultError(f"{key} of the summary is a {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise _ResultError(f"{key} of the summary is {value}; give None for no number")
    for row in result.history:
        for key, value in row.items():
            if not isinstance(value, Scalar):
                raise _ResultError(f"{key} of the history is a {type(value).__name__}")
    for key, value in result.weights.items():
        if not isinstance(value, Tensor):
            raise _ResultError(f"the weight {key} is a {type(value).__name__}")
    if result.weights and result.model is None:
        raise _ResultError("there are weights and no `model`, the configuration that builds theirs")
    return run, result


class _ResultError(InputError):
    """What is wrong with a result, before its place is known."""


def name_of(fields: Mapping[str, Any]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a configuration."""
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:NAME_LENGTH]


def run_from_fields(fields: Mapping[str, Any]) -> Run:
    """The run that `fields`, with its `kind`, describe.

    Raises:
        InputError: an unknown kind, or a field that is unknown or has the wrong type or value.
    """
    given = dict(fields)
    given.pop("plugins", None)  # Follows from the parts, as they are now.
    kind = given.pop("kind", None)
    if kind not in _KINDS:
        known = sorted(_KINDS)
        raise InputError(
            f"there is no kind of run {kind!r}; there are {', '.join(known)}"
            f"{nearest(str(kind), known)}"
        )
    try:
        return _KINDS[kind].model_validate(given)
    except ValidationError as error:
        raise InputError(f"{kind} run: {describe(error, _KINDS[kind])}") from None

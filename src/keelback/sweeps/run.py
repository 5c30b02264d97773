"""A run: one training, named by the hash of everything that decides its numbers."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python
from torch import Tensor

from keelback.errors import InputError, describe, nearest

Scalar = float | int | str | bool | None

Progress = Callable[[float], None]
"""Called with the share of a batch of runs that is done, from 0 to 1."""

NAME_LENGTH = 16


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: a row of scalars, a table with a row per epoch, and weights.

    Where there are weights, `model` is the configuration that builds the model they belong to.
    """

    summary: Mapping[str, Scalar]
    history: Sequence[Mapping[str, Scalar]] = ()
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    model: Any = None


class Run(BaseModel, ABC):
    """The full configuration of one run. Subclasses add fields and say how runs are executed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if "kind" in cls.__dict__:
            _KINDS[cls.kind] = cls

    def fields(self) -> dict[str, Any]:
        """The configuration as JSON values, `kind` included."""
        return {"kind": self.kind, **self.model_dump(mode="json")}

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
        """How long the run takes beside others, in any unit; dear runs are started first."""
        return 1.0

    def memory(self) -> int:
        """Roughly how many bytes the run needs beside others of its batch; 0 where it is little."""
        return 0

    @classmethod
    @abstractmethod
    def execute(cls, runs: Sequence[Self], progress: Progress) -> Iterator[tuple[Self, RunResult]]:
        """Execute runs of one batch and give each with its result, in any order."""


_KINDS: dict[str, type[Run]] = {}
"""The classes of runs by the `kind` that names them in a configuration."""


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

"""A run: one training, named by the hash of everything that decides its numbers."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict
from torch import Tensor

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

    def fields(self) -> dict[str, Any]:
        """The configuration as JSON values, `kind` included."""
        return {"kind": self.kind, **self.model_dump(mode="json")}

    @property
    def name(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the configuration."""
        canonical = json.dumps(self.fields(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:NAME_LENGTH]

    def batch_key(self) -> str:
        """Runs with the same key are executed together, as one batch. By default none are."""
        return self.name

    def cost(self) -> float:
        """How long the run takes beside others, in any unit; dear runs are started first."""
        return 1.0

    @classmethod
    @abstractmethod
    def execute(cls, runs: Sequence[Self], progress: Progress) -> Iterator[tuple[Self, RunResult]]:
        """Execute runs of one batch and give each with its result, in any order."""

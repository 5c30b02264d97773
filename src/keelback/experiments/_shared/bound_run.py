"""A run that evaluates every bound of one class of constants; it trains nothing."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

from pydantic import Field

from keelback.bounds import ClassConstants, summarise
from keelback.sweeps.run import Progress, Run, RunResult


class BoundRun(Run):
    """All bounds of the class with these constants, as log10.

    The summary has `output`, the Rademacher bounds by name (`published`, `sharpened`, `lower` and
    the companions) and `covering`, the log10 of the covering risk gap at margin 1 and delta 0.05.
    """

    kind: ClassVar[str] = "bound"

    constants: dict[str, float | int]
    vocab_size: int = Field(default=0, ge=0)
    classes: int = Field(default=2, ge=2)

    def batch_key(self) -> str:
        """All evaluations go together: each takes a hundredth of a second."""
        return "bounds"

    def cost(self) -> float:
        """One unit."""
        return 1.0

    @classmethod
    def of(cls, constants: ClassConstants, **options: Any) -> "BoundRun":
        """The run of checked constants."""
        return cls(constants=constants.as_dict(), **options)

    @classmethod
    def execute(cls, runs: Sequence[Self], progress: Progress) -> Iterator[tuple[Self, RunResult]]:
        """Evaluate one after the other."""
        for done, run in enumerate(runs, start=1):
            constants = ClassConstants.from_mapping(run.constants)
            found = summarise(constants, classes=run.classes, vocab_size=run.vocab_size)
            logs = {"output": found.log_output_bound, **found.log_rademacher}
            logs["covering"] = found.log_risk["covering"]
            yield run, RunResult({name: log / math.log(10) for name, log in logs.items()})
            progress(done / len(runs))

"""A training that also measures what may predict the gap, and the gap itself."""

import dataclasses
import functools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from pydantic import Field

from keelback.certify import logits
from keelback.data import Split, get_task
from keelback.experiments.measures.of_model import CANDIDATES, measure
from keelback.models import SelectiveClassifier, model_config
from keelback.sweeps.run import Progress, RunResult, Scalar
from keelback.sweeps.training_run import TrainingRun
from keelback.training import error_rate

FRESH_SEED = 4_000_000_000
"""The data seed of the examples that gaps are measured on; no training uses it."""


class MeasuredRun(TrainingRun):
    """A training on a generated task, its gap on fresh examples, and every candidate measure.

    `gap` is the error on `fresh_examples` new examples of the training distribution less the error
    on the training split, `shifted_gap` the same on new examples of the test distribution where
    that is another one. A measure that a model does not have (a margin where no example is right)
    is None.
    """

    kind: ClassVar[str] = "measured-training"

    fresh_examples: int = Field(default=10_000, ge=1)

    @classmethod
    def execute(cls, runs: Sequence[Self], progress: Progress) -> Iterator[tuple[Self, RunResult]]:
        """Train the runs side by side, then measure each."""
        for run, result in super().execute(runs, progress):
            summary = {**result.summary, **run._measured(result)}
            yield run, dataclasses.replace(result, summary=summary)

    def require_room(self) -> None:
        """Check that the fresh examples fit besides."""
        super().require_room()
        sizes = {"n_train": self.fresh_examples, "n_test": self.fresh_examples}
        get_task(self.task, **{**self.task_settings, **sizes}).require_room()

    def _measured(self, result: RunResult) -> dict[str, Scalar]:
        names = ("gap", "shifted_gap", *(candidate.key for candidate in CANDIDATES))
        if result.summary["diverged"]:
            return dict.fromkeys(names)
        model = cast(SelectiveClassifier, model_config(self.model).build(self._generator()))
        initial = {name: x.detach().clone() for name, x in model.named_parameters()}
        model.load_state_dict(dict(result.weights))
        train = self.get_task().split("train")
        batch_size = self.recipe.batch_size
        found: dict[str, Any] = measure(model, initial, train, batch_size, self.seed)
        error = _error(model, train)
        settings = {**self.task_settings, "data_seed": FRESH_SEED}
        settings |= {"n_train": self.fresh_examples, "n_test": self.fresh_examples}
        fresh = json.dumps(settings, sort_keys=True)
        found["gap"] = _error(model, _fresh_split(self.task, fresh, "train")) - error
        if self.get_task().shifted_test:
            found["shifted_gap"] = _error(model, _fresh_split(self.task, fresh, "test")) - error
        values = {name: found.get(name) for name in names}
        return {k: x if x is not None and math.isfinite(x) else None for k, x in values.items()}

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


@functools.lru_cache(maxsize=4)
def _fresh_split(task: str, settings: str, name: Any) -> Split:
    return get_task(task, **json.loads(settings)).split(name)


def _error(model: SelectiveClassifier, split: Split) -> float:
    return error_rate(logits(model, split), split.labels)

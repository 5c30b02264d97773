"""A run that trains one classifier on one task, and how many of them train as one batch."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from pydantic import Field, JsonValue, field_validator

from keelback.data import TASKS, Split, Task, fresh_seed, get_task
from keelback.device import default_device
from keelback.errors import InputError
from keelback.memory import require_memory
from keelback.models import MODELS, model_config, require_room
from keelback.sweeps.run import Progress, Run, RunResult, Scalar
from keelback.training import (
    Checkpoint,
    Place,
    Recipe,
    TrainingResult,
    accuracy,
    recompute_layers,
    train,
)

R = TypeVar("R", bound="TrainingRun")

_COPIES = 5
"""Of the weights: the values, their gradients, two moments of the optimiser, the best so far."""
_BYTES_OF_EPOCH = 200.0
"""Of one row of the history, which is kept until the end."""


class TrainingRun(Run):
    """One classifier, trained on one task from one seed.

    `seed` decides the initial values and the order of the examples; `task_settings["data_seed"]`
    decides the data. Runs that differ in nothing but seeds and the initial abscissa train as one
    batch. Where a task's test split is shifted, the result also has `fresh_accuracy`, on examples
    of the training distribution that were not trained on.

    Examples:
        >>> model = {"kind": "selective-ssm", "vocab_size": 2}
        >>> run = TrainingRun(task="majority", task_settings={"seq_len": 50}, model=model, seed=1)
        >>> len(run.name), run.recipe.epochs
        (16, 40)
    """

    kind: ClassVar[str] = "training"

    task: str
    task_settings: dict[str, JsonValue]
    data_fingerprint: str | None = None
    """What the loaded data are, wherever they lie; None for a task that generates its data."""
    paths: dict[str, Path] = Field(default={}, exclude=True)
    """Where a task that loads its data finds them; not part of what the run is."""
    model: dict[str, JsonValue]
    recipe: Recipe = Recipe()
    seed: int = Field(ge=0, le=2**32 - 1)

    @field_validator("task")
    @classmethod
    def _is_a_name(cls, task: str) -> str:
        """A record names its task and never the file: reading a record runs no code."""
        if task.endswith(".py"):
            raise InputError(
                f"a run names its task: load {task} with keelback.load_plugin, and give the name "
                "of the task"
            )
        return task

    @field_validator("model")
    @classmethod
    def _complete(cls, fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Write out the defaults, so that a run's name does not depend on which were given."""
        return dict(model_config(fields).model_dump(mode="json"))

    def parts(self) -> dict[str, object]:
        """The class of the run, its task and its model."""
        named = {"task": TASKS.get(self.task), "model": MODELS.get(str(self.model["kind"]))}
        return super().parts() | {name: part for name, part in named.items() if part is not None}

    def batch_key(self) -> str:
        """Everything but the seeds and the initial spectral abscissa."""
        fields = self.fields()
        del fields["seed"]
        fields["task_settings"].pop("data_seed", None)
        fields["model"].pop("spectral_abscissa", None)
        return json.dumps(fields, sort_keys=True)

    def get_task(self) -> Task:
        """The run's task."""
        return get_task(self.task, **self.task_settings, **self.paths)

    def require_room(self) -> None:
        """Check that examples, copies of the weights and the history fit."""
        self.get_task().require_room()
        _require_room_for(json.dumps(self.model, sort_keys=True))
        require_memory(_BYTES_OF_EPOCH * self.recipe.epochs, "the records of the epochs")

    def with_fresh_data(self) -> Self:
        """The same run on data of another seed, which no run of a sweep is trained on."""
        seed = self.task_settings.get("data_seed", 0)
        other = {**self.task_settings, "data_seed": fresh_seed(int(str(seed)))}
        return self.model_copy(update={"task_settings": other})

    def cost(self) -> float:
        """Tokens seen in training, where the task says how many."""
        sizes = (self.task_settings.get(key) for key in ("seq_len", "n_train"))
        return math.prod(size for size in sizes if isinstance(size, int)) * self.recipe.epochs

    @classmethod
    def execute(cls, runs: Sequence[Self], progress: Progress) -> Iterator[tuple[Self, RunResult]]:
        """Train the runs side by side, then score each on its splits."""
        splits = _Splits()
        by_shape = defaultdict(list)
        for run in runs:
            by_shape[splits.get(run, "train").tokens.shape].append(run)
        for alike in by_shape.values():
            yield from _trained(alike, splits, progress, Place(default_device()))

    def execute_alone(
        self,
        progress: Progress,
        *,
        place: Place | None = None,
        checkpoint: Checkpoint | None = None,
        recompute: bool = False,
    ) -> RunResult:
        """Train and score this run by itself.

        Args:
            progress: told the share of the epochs that is done.
            place: where to compute; the default device if not given.
            checkpoint: where the training is kept while it is under way, and taken up from.
            recompute: whether to compute layers again in the backward pass instead of keeping them.

        Raises:
            InputError: `recompute`, and the model has no repeated layers.
            JobError: SIGTERM came; the training is kept in `checkpoint`.
        """
        place = place or Place(default_device())
        [(_, result)] = _trained([self], _Splits(), progress, place, checkpoint, recompute)
        return result


@cache
def _require_room_for(model: str) -> None:
    """The same for every seed of a sweep, which may have thousands."""
    require_room(model_config(json.loads(model)), copies=_COPIES)


def _trained(
    runs: Sequence[R],
    splits: "_Splits",
    progress: Progress,
    place: Place,
    checkpoint: Checkpoint | None = None,
    recompute: bool = False,
) -> Iterator[tuple[R, RunResult]]:
    """Train runs whose examples have one shape side by side, then score each on its splits."""
    require_room(model_config(runs[0].model), copies=_COPIES)
    models = [
        model_config(run.model).build(torch.Generator().manual_seed(run.seed)) for run in runs
    ]
    if recompute:
        recompute_layers(models[0])
    results = train(
        models,
        [splits.get(run, "train") for run in runs],
        runs[0].recipe,
        [run.seed for run in runs],
        place=place,
        checkpoint=checkpoint,
        on_epoch=lambda epoch, _: progress(epoch / runs[0].recipe.epochs),
    )
    for run, result in zip(runs, results, strict=True):
        model = models[0]
        model.load_state_dict(result.weights)
        summary = _end_of(result)
        for name, split in splits.scored(run).items():
            score = None if result.divergence else accuracy(model, split.to(place.device))
            summary[f"{name}_accuracy"] = score
        config = model_config(run.model)
        yield run, RunResult(summary, result.history, result.weights, config)


def _end_of(result: TrainingResult) -> dict[str, Scalar]:
    last, divergence = result.history[-1], result.divergence
    return {
        "epochs": last["epoch"],
        "loss": None if divergence else last.get("loss"),
        "s_A": last.get("s_A"),
        "diverged": divergence is not None,
        "diverged_epoch": divergence.epoch if divergence else None,
        "diverged_step": divergence.step if divergence else None,
        "diverged_tensor": divergence.tensor if divergence else None,
        "zeroed_steps": sum(int(row.get("zeroed_steps") or 0) for row in result.history),
    }


class _Splits:
    """The splits of a batch of runs; runs with the same data share one object."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Split] = {}

    def get(self, run: TrainingRun, name: Any) -> Split:
        key = (json.dumps([run.task, run.task_settings], sort_keys=True), name)
        if key not in self._known:
            self._known[key] = run.get_task().split(name)
        return self._known[key]

    def scored(self, run: TrainingRun) -> dict[str, Split]:
        """The splits that a trained model is scored on, by the name of the score."""
        scored = {"train": self.get(run, "train"), "test": self.get(run, "test")}
        if run.get_task().shifted_test:
            scored["fresh"] = self.get(run.with_fresh_data(), "train")
        return scored

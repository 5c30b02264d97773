"""Runs that train a gated SSM many times: one setting of arXiv 2602.12499, one seed per trial."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field

from keelback.device import default_device
from keelback.dynamics import (
    CorrelatedNoise,
    GaussianNoise,
    Locality,
    MajorityVoting,
    StudentNoise,
    cosines,
    projections,
)
from keelback.dynamics.descent import (
    GatedHistory,
    GatedTraining,
    OptimizerName,
    ScheduleName,
    Source,
    Symmetry,
    train_gated,
)
from keelback.memory import require_memory
from keelback.sweeps.run import Progress, Run, RunResult, Scalar
from keelback.sweeps.store import StoredRun

Goal = Literal["target", "ranking", "learned", "loss_0.9", "loss_0.5"]
"""What a trial is after: its target (test loss, and accuracy where one is set), to rank test
sequences (`RANKING`), to have learned them (`ACCURACY` and `HINGE`), or a test loss on the way."""

_TIMES = 80

_OF_POPULATION = 50
"""What a step on the population costs, in token coordinates."""

RANKING = 0.9
"""Chance to rank two test sequences of different classes rightly that counts as learned."""

ACCURACY, HINGE = 0.99, 0.1
"""Test accuracy and mean hinge loss that count, at the same epoch, as learned."""

_LOSSES = (0.9, 0.5)

_LATER = (
    "gate_step_size",
    "readout_step_size",
    "optimizer",
    "schedule",
    "symmetry",
    "target_accuracy",
)
"""Fields that were added when runs had names already."""


_BYTES_OF_TRIAL = 1000.0
"""Of its configuration and its row, at least."""


class GatedTrials(Run):
    """Independent trainings of one setting; seeds are `first_seed`, `first_seed + 1`, ...

    `record` "ends" leaves one row per trial; "course" one per trial and measured epoch.
    """

    kind: ClassVar[str] = "gated-trials"

    pattern: MajorityVoting | Locality
    noise: GaussianNoise | StudentNoise | CorrelatedNoise = GaussianNoise(0.02)
    samples: int = 400
    source: Source = "fixed"
    width: int = 50
    step_size: float = 0.5
    epochs: int = 1000
    target: float | None = 1e-3
    stop_at_target: bool = True
    test_samples: int = 500
    readout_scale: float = 0.1
    trials: int = Field(default=100, ge=1)
    first_seed: int = Field(default=0, ge=0)
    record: Literal["ends", "course"] = "ends"
    gate_step_size: float | None = None
    readout_step_size: float | None = None
    optimizer: OptimizerName = "gd"
    schedule: ScheduleName = "constant"
    symmetry: Symmetry = "none"
    target_accuracy: float | None = None

    def fields(self) -> dict[str, Any]:
        """The configuration; what came later is left out at its default, so that names stay."""
        found = super().fields()
        for name in _LATER:
            if found[name] == type(self).model_fields[name].default:
                del found[name]
        return found

    def require_room(self) -> None:
        """Check that the trials' weights and records fit, as many as there are."""
        weights = 4.0 * self.pattern.dim * (self.width + 3 * self.pattern.dim)
        require_memory(
            self.trials * (weights + _BYTES_OF_TRIAL), f"{self.trials} trials of {self.kind}"
        )

    def trainings(self) -> list[GatedTraining]:
        """The trials, in the order of their seeds."""
        return [
            GatedTraining(
                pattern=self.pattern,
                noise=self.noise,
                samples=self.samples,
                source=self.source,
                width=self.width,
                step_size=self.step_size,
                epochs=self.epochs,
                seed=self.first_seed + trial,
                test_samples=self.test_samples,
                target=self.target,
                stop_at_target=self.stop_at_target,
                readout_scale=self.readout_scale,
                gate_step_size=self.gate_step_size,
                readout_step_size=self.readout_step_size,
                optimizer=self.optimizer,
                schedule=self.schedule,
                symmetry=self.symmetry,
                target_accuracy=self.target_accuracy,
            )
            for trial in range(self.trials)
        ]

    def batch_key(self) -> str:
        """Equal shapes share a batch on the CPU; a GPU takes everything, one shape at a time."""
        return self.kind if default_device() == "cuda" else self._shape()

    def cost(self) -> float:
        """Token coordinates seen in training, at most."""
        if self.source == "population":
            return float(self.trials * self.epochs * _OF_POPULATION)
        seen = self.trials * self.epochs * self.samples * self.pattern.length
        return float(seen * (1 if self.noise.scale == 0 else self.pattern.dim))

    @classmethod
    def execute(cls, runs: Sequence[Self], progress: Progress) -> Iterator[tuple[Self, RunResult]]:
        """Train all trials of all runs of one shape together, one shape after the other."""
        fastest = use_device()
        shapes: dict[str, list[Self]] = defaultdict(list)
        for run in runs:
            shapes[run._shape()].append(run)
        advance = _Share(sum(run.cost() for run in runs), progress)
        for alike in shapes.values():
            trainings = [training for run in alike for training in run.trainings()]
            advance.each = sum(run.cost() for run in alike) / len(trainings)
            device = "cpu" if alike[0]._suits_cpu() else fastest
            histories = iter(train_gated(trainings, device=device, on_progress=advance))
            for run in alike:
                yield run, run.result([next(histories) for _ in range(run.trials)])

    def result(self, histories: Sequence[GatedHistory]) -> RunResult:
        """Counts of how the trials ended, and their rows."""
        ended = [history.status for history in histories]
        summary: dict[str, Scalar] = {
            "trials": len(histories),
            "reached": ended.count("reached"),
            "censored": ended.count("censored"),
            "diverged": ended.count("diverged"),
        }
        rows: list[dict[str, Scalar]] = []
        for trial, history in enumerate(histories):
            seed = self.first_seed + trial
            if self.record == "ends":
                rows.append({"seed": seed, **_ending(history)})
            else:
                rows += [{"seed": seed, **row} for row in _course(history)]
        return RunResult(summary, rows)

    def _suits_cpu(self) -> bool:
        """Long sequences without noise: the GPU has no kernel for those."""
        return self.noise.scale == 0 and self.pattern.length > 64

    def _shape(self) -> str:
        if self.source == "population":
            return self.name
        sizes = (self.pattern.length, self.pattern.dim, self.samples, self.test_samples)
        kind = (self.source == "fresh", self.noise.scale == 0)
        ways = (self.optimizer, self.schedule, self.symmetry)
        return json.dumps([*sizes, self.width, self.epochs, *kind, *ways])


class _Share:
    """Turns counts of finished trainings into the share of the whole cost that is done."""

    def __init__(self, whole: float, progress: Progress) -> None:
        self._whole, self._progress = whole, progress
        self._done = 0.0
        self.each = 0.0

    def __call__(self, finished: int) -> None:
        self._done += finished * self.each
        self._progress(self._done / self._whole)


def use_device() -> str:
    """The GPU where there is one; on the CPU, as many Numba threads as PyTorch may use."""
    if default_device() == "cuda":
        return "cuda"
    import numba

    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.get_num_threads()))
    torch.set_num_threads(threads)  # Numba's OpenMP layer sets it to all cores as it starts.
    return "cpu"


def _ending(history: GatedHistory) -> dict[str, Scalar]:
    return {
        "status": history.status,
        "epochs_to_target": history.epochs_to_target,
        **{f"epochs_to_{goal}": epochs for goal, epochs in _on_the_way(history).items()},
        "diverged_by": history.diverged_by,
        **_measures(history, len(history.epochs) - 1),
    }


def epochs_to_ranking(history: GatedHistory) -> int | None:
    """First measured epoch at which two test sequences are ranked rightly often enough."""
    return _first(history, history.test_ranking >= RANKING)


def _on_the_way(history: GatedHistory) -> dict[str, int | None]:
    """First measured epoch of every goal but the target."""
    return {
        "ranking": epochs_to_ranking(history),
        "learned": _first(
            history, (history.test_accuracy >= ACCURACY) & (history.test_loss <= HINGE)
        ),
        **{f"loss_{loss:g}": _first(history, history.test_loss <= loss) for loss in _LOSSES},
    }


def _first(history: GatedHistory, there: np.ndarray) -> int | None:
    places = np.flatnonzero(there)
    return int(history.epochs[places[0]]) if len(places) else None


def _course(history: GatedHistory) -> list[dict[str, Scalar]]:
    last = len(history.epochs) - 1
    kept = sorted({round(place) for place in np.linspace(0, last, _TIMES)})
    return [_measures(history, place) for place in kept]


def _measures(history: GatedHistory, place: int) -> dict[str, Scalar]:
    gating = history.gating[place]
    row: dict[str, Scalar] = {
        "epoch": int(history.epochs[place]),
        "train_loss": _finite(history.train_loss[place]),
        "test_loss": _finite(history.test_loss[place]),
        "test_accuracy": _finite(history.test_accuracy[place]),
        "test_ranking": _finite(history.test_ranking[place]),
    }
    finite = bool(np.isfinite(gating).all())
    for name, found in (("projection", projections(gating)), ("cosine", cosines(gating))):
        rest = np.array(found.irrelevant)
        values = {
            "o_plus": found.o_plus,
            "o_minus": found.o_minus,
            "irrelevant_least": rest.min(),
            "irrelevant_mean": rest.mean(),
            "irrelevant_most": rest.max(),
        }
        row |= {f"{name}_{key}": float(v) if finite else None for key, v in values.items()}
    return row


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def outcomes_of(run: StoredRun, goal: Goal = "target") -> np.ndarray:
    """Epochs to the goal of every trial of a stored run; `inf` where it was not reached."""
    reached = [row[f"epochs_to_{goal}"] for row in run.history()]
    return np.array([np.inf if epochs is None else float(epochs) for epochs in reached])

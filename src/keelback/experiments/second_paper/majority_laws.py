"""By which law do small steps learn a majority vote: do the epochs grow like gap^-2?

Figure 1 of arXiv 2602.12499 without noise, with step sizes from the paper's down and gaps below
the paper's: whether the exponent goes to the theorem's as steps and gap get small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from pydantic import PositiveInt

from keelback.dynamics import GaussianNoise, MajorityVoting, PowerLaw
from keelback.experiments.experiment import Experiment, Settings
from keelback.experiments.second_paper.gated_experiment import (
    count_of_trainings,
    measured,
)
from keelback.experiments.second_paper.gated_reading import (
    epochs_figure,
    exponent_claim,
    exponent_table,
    grid_table,
    law_numbers,
    law_of,
    trial_row,
)
from keelback.experiments.second_paper.gated_trials import GatedTrials
from keelback.outcome import Claim, Figure, Outcome
from keelback.sweeps.store import StoredRun

THEORY = -2.0
"""Exponent of the epochs in the gap: T ~ 1 / (eta gap^2)."""

_SMALL = 3
"""How many of the least gaps have an exponent of their own."""


@dataclass(frozen=True)
class _Series:
    """Settings that differ in the gap alone; the smaller the step, the fewer small gaps."""

    step_size: float
    own: tuple[int, ...]
    epochs: int


@dataclass(frozen=True)
class _Scale:
    length: int
    dim: int
    width: int
    other: int
    samples: int
    trials: int
    series: tuple[_Series, ...]


_FULL = _Scale(
    60, 32, 50, 6, 1000, 20,
    (
        _Series(0.5, (8, 9, 10, 12, 15, 20, 30), 10**5),
        _Series(0.1, (9, 10, 12, 15, 20, 30), 2 * 10**5),
        _Series(0.02, (10, 12, 15, 20, 30), 4 * 10**5),
    ),
)  # fmt: skip
_QUICK = _Scale(
    20, 8, 20, 2, 256, 4,
    (_Series(0.5, (4, 5, 6, 8), 2 * 10**4), _Series(0.1, (4, 5, 6, 8), 10**5)),
)  # fmt: skip


class MajorityLawSettings(Settings):
    """How many starts of each setting are trained."""

    trials: PositiveInt | None = None


class MajorityLaws(Experiment[MajorityLawSettings]):
    """Epochs against the gap for several step sizes, and the exponents of all and of small gaps."""

    name: ClassVar[str] = "majority-laws"
    summary: ClassVar[str] = "do small steps learn a majority vote in gap^-2 epochs?"
    settings_type = MajorityLawSettings

    def runs(self, settings: MajorityLawSettings) -> list[GatedTrials]:
        """All gaps of all step sizes."""
        scale = _scale(settings)
        return [
            GatedTrials(
                pattern=MajorityVoting(
                    own / scale.length, scale.other / scale.length, scale.length, scale.dim
                ),
                noise=GaussianNoise(0.0),
                samples=scale.samples,
                width=scale.width,
                step_size=series.step_size,
                epochs=series.epochs,
                trials=settings.trials or scale.trials,
            )
            for series in scale.series
            for own in series.own
        ]

    def outcome(self, settings: MajorityLawSettings, results: Sequence[StoredRun]) -> Outcome:
        """Epochs, exponents of all and of the least gaps, and a verdict on each."""
        runs = iter(self.runs(settings))
        found = {
            f"step size {series.step_size:g}": measured(
                list(islice(runs, len(series.own))), results, "ends"
            )
            for series in _scale(settings).series
        }
        rows = [trial_row(name, *pair) for name, pairs in found.items() for pair in pairs]
        laws = {name: law_of(pairs) for name, pairs in found.items()}
        small = {
            f"{name}, {_SMALL} least gaps": law_of(pairs[:_SMALL])
            for name, pairs in found.items()
            if len(pairs) > _SMALL
        }
        label = settings.label
        return Outcome(
            experiment=f"{self.name}-{label}",
            title="Majority voting: the law of small steps",
            summary=count_of_trainings(rows, "test loss 1e-3"),
            claims=[*_claims(laws), *_claims(small)],
            figures=[grid_figure(settings, rows)] if rows else [],
            tables=[
                grid_table(f"majority-law-grid-{label}", "Epochs to test loss 1e-3", "gap", rows),
                exponent_table(
                    f"majority-law-exponents-{label}",
                    "Exponent of the epochs in the gap",
                    {**laws, **small},
                    THEORY,
                ),
            ],
            numbers={
                "setting": label,
                "grid": rows,
                "exponents": {
                    name: law_numbers(law, THEORY) for name, law in {**laws, **small}.items()
                },
            },
        )


def grid_figure(settings: MajorityLawSettings, rows: Sequence[dict[str, Any]]) -> Figure:
    """Epochs to the target against the gap, one line per step size."""
    return epochs_figure(
        f"majority-laws-{settings.label}",
        "Majority voting: epochs by step size, no noise",
        "gap α_r − α_c",
        "epochs to test loss 0.001",
        rows,
        THEORY,
    )


def _scale(settings: MajorityLawSettings) -> _Scale:
    return _QUICK if settings.quick else _FULL


def _claims(laws: dict[str, PowerLaw | None]) -> list[Claim]:
    return [
        exponent_claim(f"T ~ 1 / (eta gap^2) ({name}).", law, THEORY) for name, law in laws.items()
    ]

"""By which law does gradient descent learn locality, and where does the theorem's rate part?

Gradient descent on the exact population of locality data (`descent.population`), to accuracy .99
and hinge loss .1, in regimes that differ in the step sizes of gate and read-out alone; beside each
measured time the one that the two modes give (`two_modes`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from pydantic import PositiveInt

from keelback.dynamics import (
    GaussianNoise,
    Locality,
    PowerLaw,
    TwoModes,
    active_share,
)
from keelback.dynamics.descent import ScheduleName, Symmetry
from keelback.dynamics.descent.batch import initial_weights
from keelback.experiments.experiment import Experiment, Settings
from keelback.experiments.second_paper.gated_experiment import Measured, measured, order_claim
from keelback.experiments.second_paper.gated_reading import (
    SEPARATION,
    epochs_figure,
    exponent_claim,
    exponent_table,
    final,
    finite,
    law_numbers,
    law_of,
    trial_row,
)
from keelback.experiments.second_paper.gated_trials import (
    ACCURACY,
    HINGE,
    GatedTrials,
    Goal,
    outcomes_of,
)
from keelback.experiments.second_paper.locality_gate import (
    first_rows,
    gate_claim,
    gate_figure,
    gate_numbers,
    near_of,
)
from keelback.outcome import Claim, Column, Figure, Outcome, Table
from keelback.sweeps.store import StoredRun

THEORY = -1.0
"""Exponent of the epochs in 2^-near - 2^-far: T ~ L^2 / (eta (2^-near - 2^-far))."""

_HALF, _TOLERANCE = 0.5, 0.05

_ALIGNED: dict[bool, tuple[tuple[int, ...], int]] = {
    False: ((5, 3, 2, 1), 10**6),
    True: ((2, 1), 10**5),
}
"""Separations and epochs of the first regime whose gate is followed; the key is `quick`."""


@dataclass(frozen=True)
class _Regime:
    """Settings that differ in the near separation alone."""

    name: str
    length: int
    dim: int
    far: int
    near: tuple[int, ...]
    gate: float
    out: float
    epochs: int
    schedule: ScheduleName = "constant"
    symmetry: Symmetry = "readout"

    @property
    def goal(self) -> tuple[Goal, str]:
        """What its law is fitted to."""
        if self.schedule == "stable":
            return "learned", f"accuracy {ACCURACY:g} and hinge {HINGE:g}"
        return "loss_0.5", "loss 0.5"

    def runs(self, trials: int) -> list[GatedTrials]:
        """One run per separation."""
        return [
            GatedTrials(
                pattern=Locality(near, self.far, self.length, self.dim),
                noise=GaussianNoise(0.0),
                source="population",
                gate_step_size=self.gate,
                readout_step_size=self.out,
                schedule=self.schedule,
                symmetry=self.symmetry,
                readout_scale=0.01,
                epochs=self.epochs,
                target=HINGE,
                target_accuracy=ACCURACY,
                trials=trials,
            )
            for near in self.near
        ]


_REGIMES = (
    _Regime("one step size", 20, 32, 12, (1, 2, 3, 4, 5, 6), 1.0, 1.0, 2 * 10**6),
    _Regime("gate at rest", 20, 32, 12, (1, 2, 3, 4, 5, 6), 1e-5, 10.0, 6 * 10**6),
    _Regime(
        "stable steps, no symmetry", 20, 32, 12, (1, 2, 3, 4), 1.0, 100.0, 10**6,
        "stable", "none",
    ),
    _Regime("at scale", 500, 256, 40, (2, 3, 5, 8, 12, 16, 20), 1.0, 3e5, 3 * 10**7),
    _Regime("at scale, gate at rest", 500, 256, 40, (1, 2, 3, 5, 8), 1e-6, 1e5, 8 * 10**6),
)  # fmt: skip
_QUICK = (
    _Regime("one step size", 14, 8, 9, (1, 2, 3, 4), 1.0, 1.0, 10**6),
    _Regime("gate at rest", 14, 8, 9, (1, 2, 3), 1e-5, 10.0, 10**5),
    _Regime(
        "stable steps, no symmetry", 20, 16, 12, (1, 2, 3), 1.0, 100.0, 10**5, "stable", "none"
    ),
)


class LawSettings(Settings):
    """How many starts of each setting are trained; the data are exact."""

    trials: PositiveInt | None = None


class LocalityLaws(Experiment[LawSettings]):
    """Epochs against the separation by regime, and what the two modes say of each."""

    name: ClassVar[str] = "locality-laws"
    summary: ClassVar[str] = "by which law does gradient descent learn which pair is close?"
    settings_type = LawSettings

    def runs(self, settings: LawSettings) -> list[GatedTrials]:
        """All separations of all regimes, then the runs whose gate is followed."""
        trials = settings.trials or (2 if settings.quick else 5)
        grid = [run for regime in _regimes(settings) for run in regime.runs(trials)]
        separations, epochs = _ALIGNED[settings.quick]
        followed = {"record": "course", "stop_at_target": False, "epochs": epochs}
        aligned = {near_of(run): run for run in _regimes(settings)[0].runs(trials)}
        return [*grid, *(aligned[near].model_copy(update=followed) for near in separations)]

    def outcome(self, settings: LawSettings, results: Sequence[StoredRun]) -> Outcome:
        """Epochs, exponents and the two modes of every regime, and a verdict on each."""
        runs = self.runs(settings)
        aligned, ends = measured(runs, results, "course"), iter(runs)
        found = [
            (regime, pairs)
            for regime in _regimes(settings)
            if (pairs := measured(list(islice(ends, len(regime.near))), results, "ends"))
        ]
        rows = [_row(regime, *pair) for regime, pairs in found for pair in pairs]
        laws = {regime.name: law_of(pairs, regime.goal[0]) for regime, pairs in found}
        claims = [claim for regime, pairs in found for claim in _claims(regime, pairs, rows, laws)]
        claims += [claim for pair in aligned for claim in _gate_claims(*pair)]
        label = settings.label
        figures = []
        if rows:
            figures.append(regimes_figure(settings, rows))
        if aligned:
            figures.append(
                gate_figure(
                    f"locality-gate-{label}",
                    "Locality: alignment of the gating vector",
                    aligned,
                    "Gradient descent on the population, one step size",
                )
            )
        return Outcome(
            experiment=f"{self.name}-{label}",
            title="Locality: the laws of gradient descent",
            summary=f"{sum(row['trials'] for row in rows)} descents on the exact population in "
            f"{len(rows)} settings; {sum(row['learned'] for row in rows)} learned it (accuracy "
            f"{ACCURACY:g} and hinge {HINGE:g} at one epoch), "
            f"{sum(row['diverged'] for row in rows)} diverged.",
            claims=claims,
            figures=figures,
            tables=[
                _grid(label, rows),
                exponent_table(
                    f"locality-law-exponents-{label}",
                    "Exponent of the epochs in 2^-near - 2^-far",
                    laws,
                    THEORY,
                ),
            ],
            notes=[
                "Exact means over all sequences, no noise, read-outs from N(0, .01^2). Epochs of "
                "constant steps are those to loss 0.5, of stable steps those to the goal."
            ],
            numbers={
                "setting": label,
                "grid": rows,
                "exponents": {key: law_numbers(law, THEORY) for key, law in laws.items()},
                "alignment": [gate_numbers(*pair) for pair in aligned],
            },
        )


def regimes_figure(settings: LawSettings, rows: Sequence[dict[str, Any]]) -> Figure:
    """Epochs of every regime by the separation, and the share of descents that came there."""
    name, title = f"locality-laws-{settings.label}", "Locality: epochs by regime"
    return epochs_figure(name, title, SEPARATION, "epochs", rows, THEORY)


def _regimes(settings: LawSettings) -> tuple[_Regime, ...]:
    return _QUICK if settings.quick else _REGIMES


def _row(regime: _Regime, run: GatedTrials, stored: StoredRun) -> dict[str, Any]:
    """A setting: epochs to the regime's goal, what was learned, and the two modes beside it."""
    learned = outcomes_of(stored, "learned")
    median = float(np.median(learned))
    pattern = run.pattern
    assert isinstance(pattern, Locality)
    ratio = _ratio(run, stored) if regime.schedule == "constant" else None
    return {
        "near": pattern.near,
        **trial_row(regime.name, run, stored, regime.goal[0]),
        "learned": int(np.isfinite(learned).sum()),
        "epochs_to_learned": finite(median),
        "accuracy": float(np.median(final(stored, "test_accuracy"))),
        "ratio": ratio,
    }


def _ratio(run: GatedTrials, stored: StoredRun) -> float | None:
    """Measured epochs to loss 0.5 over those of the two modes, median over trials."""
    ratios = []
    for training, epochs in zip(run.trainings(), outcomes_of(stored, "loss_0.5"), strict=True):
        active = active_share(initial_weights(training)[0])
        assert isinstance(training.pattern, Locality)
        modes = TwoModes(training.pattern, training.eta_gate, training.eta_out, active)
        expected = modes.epochs(_HALF) if active else None
        if expected is not None and np.isfinite(epochs):
            ratios.append(epochs / expected)
    return float(np.median(ratios)) if ratios else None


def _claims(
    regime: _Regime,
    pairs: Sequence[Measured],
    rows: Sequence[dict[str, Any]],
    laws: dict[str, PowerLaw | None],
) -> list[Claim]:
    points = [row for row in rows if row["series"] == regime.name]
    goal, where = regime.goal[1], f"({regime.name})"
    learned = sum(row["learned"] for row in points)
    trials = sum(row["trials"] for row in points)
    claims = [
        Claim(
            f"Gradient descent learns locality to accuracy {ACCURACY:g} and hinge {HINGE:g} "
            f"{where}.",
            "holds" if learned == trials else f"in {learned} of {trials} descents",
            f"{learned} of {trials} descents, within {regime.epochs} epochs",
            holds=True if learned == trials else None,
        ),
        order_claim(
            f"Epochs to {goal} grow with the near pair's separation {where}.",
            points,
            "grows",
            f"near = {points[0]['near']}",
        ),
        exponent_claim(
            f"T of the order of L^2 / (eta (2^-near - 2^-far)) is enough for {goal} {where}.",
            laws[regime.name],
            THEORY,
            sufficient=True,
        ),
    ]
    ratios = [row["ratio"] for row in points if row["ratio"] is not None]
    if ratios:
        holds = max(abs(ratio - 1) for ratio in ratios) <= _TOLERANCE
        claims.append(
            Claim(
                f"The two modes give the epochs to loss {_HALF:g} {where}.",
                f"holds within {_TOLERANCE:.0%}" if holds else "does not hold",
                f"measured over derived: {min(ratios):.3f} to {max(ratios):.3f} at {len(ratios)} "
                f"of {len(points)} separations; at the others sequences leave the hinge before",
                holds=holds,
            )
        )
    return claims


def _gate_claims(run: GatedTrials, stored: StoredRun) -> list[Claim]:
    """The gate while all sequences are inside the hinge, and where the task is learned."""
    stages = {
        f"at loss {_HALF:g}": first_rows(stored, _HALF),
        f"at accuracy {ACCURACY:g} and hinge {HINGE:g}": first_rows(stored, HINGE, ACCURACY),
    }
    return [gate_claim(near_of(run), rows, when) for when, rows in stages.items()]


def _grid(label: str, rows: Sequence[dict[str, Any]]) -> Table:
    return Table(
        f"locality-law-grid-{label}",
        "Epochs by regime and separation",
        [
            Column("series", "regime"),
            Column("near", "near"),
            Column("gap", "2^-near - 2^-far", ".3g"),
            Column("trials", "trials"),
            Column("learned", "learned"),
            Column("epochs_to_learned", "median epochs to learned", ".0f"),
            Column("accuracy", "accuracy at the end", ".3f"),
            Column("shown_epochs", "median epochs to the regime's goal"),
            Column("ratio", "measured / two modes", ".3f"),
        ],
        rows,
        "Learned: accuracy .99 and hinge .1 at one epoch, where training ends. Two modes: epochs "
        "to loss 0.5; empty where sequences leave the hinge before, and for stable steps.",
    )

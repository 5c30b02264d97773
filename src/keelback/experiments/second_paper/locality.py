"""How fast does a gated SSM learn which pair lies close together, and what does its gate learn?

Figures 3 and 4 of arXiv 2602.12499 on sequences that are drawn, to accuracy .99 and hinge loss .1
(without noise also to loss 1e-3): epochs against 2^-near - 2^-far with Adam and with plain gradient
descent, and the alignment of the gating vector, with the near = 1 case in which the sign turns. By
which law the epochs of small steps grow is asked in `locality_laws`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keelback.dynamics import (
    GaussianNoise,
    Locality,
    PowerLaw,
    best_two_mode_accuracy,
    median_with_interval,
)
from keelback.dynamics.descent import Source
from keelback.experiments.experiment import Experiment
from keelback.experiments.second_paper.gated_experiment import (
    GatedSettings,
    Measured,
    measured,
    order_claim,
)
from keelback.experiments.second_paper.gated_reading import (
    SEPARATION,
    bayes_note,
    conditions_table,
    epochs_figure,
    exponent_claim,
    exponent_table,
    final,
    law_numbers,
    law_of,
    shown,
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
    gate_claim,
    gate_figure,
    gate_numbers,
    last_rows,
    near_of,
)
from keelback.outcome import Claim, Column, Figure, Outcome, Table
from keelback.sweeps.store import StoredRun

THEORY = -1.0
"""Exponent of the epochs in 2^-near - 2^-far: T ~ L^2 / (eta (2^-near - 2^-far))."""

GOAL = f"accuracy {ACCURACY:g} and hinge {HINGE:g}"
_SMALL_LOSS = 1e-3
_GRID = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class _Data:
    """Where the sequences of a series come from, and how it is trained."""

    source: Source
    samples: int
    noise: float = 0.0
    near: tuple[int, ...] | None = None
    epochs: int = 4000
    plain: bool = False
    """Plain gradient descent with the largest stable steps, not Adam; a fifth of the trials."""


@dataclass(frozen=True)
class _Scale:
    length: int
    dim: int
    width: int
    far: int
    near: tuple[int, ...]
    data: tuple[_Data, ...]
    trials: int
    aligned: tuple[_Data, int]
    """Data of the alignment figure, and trials at most."""


_NOISY = _Data("paired", 1000, 0.02, epochs=2000)
_FRESH_NOISY = _Data("fresh", 512, 0.02)
_PLAIN = _Data("paired", 250, near=(1, 2, 3), epochs=4 * 10**5, plain=True)
_SCALES = {
    "paper": _Scale(
        20, 32, 50, 12, (1, 2, 3, 4, 5, 6),
        (
            _Data("fresh", 512), _Data("paired", 1000), _Data("paired", 250), _Data("fixed", 500),
            _NOISY, _FRESH_NOISY, _PLAIN,
        ),
        100, (_Data("fresh", 512, near=(3, 2, 1), epochs=1000), 20),
    ),
    "theorem": _Scale(
        20, 7, 100, 12, (1, 2, 3, 4, 5),
        (_Data("fresh", 512), _Data("paired", 1000), _NOISY, _FRESH_NOISY, _PLAIN),
        100, (_Data("fresh", 512, near=(3, 2, 1), epochs=1000), 20),
    ),
    "quick": _Scale(
        14, 8, 20, 9, (1, 2, 3), (_Data("paired", 256, epochs=2000),),
        4, (_Data("paired", 256, near=(2, 1), epochs=500), 4),
    ),
}  # fmt: skip


class LocalityExperiment(Experiment[GatedSettings]):
    """Epochs to having learned against the near separation, and the alignment of the gate."""

    name: ClassVar[str] = "locality"
    summary: ClassVar[str] = "how fast does a gated SSM learn which pair is close, by what gate?"
    settings_type = GatedSettings

    def runs(self, settings: GatedSettings) -> list[GatedTrials]:
        """The grid of data and separations, then the runs of the alignment figure."""
        scale = _SCALES[settings.label]
        trials = settings.trials or scale.trials
        grid = [
            _run(scale, data, near, trials)
            for data in scale.data
            for near in data.near or scale.near
        ]
        data, most = scale.aligned
        aligned = [
            _run(scale, data, near, min(most, trials)).model_copy(
                update={"record": "course", "stop_at_target": False}
            )
            for near in data.near or scale.near
        ]
        return [*grid, *aligned]

    def outcome(self, settings: GatedSettings, results: Sequence[StoredRun]) -> Outcome:
        """Epochs, what was reached, exponents, alignment, and a verdict for each claim."""
        runs, label = self.runs(settings), settings.label
        grid, aligned = measured(runs, results, "ends"), measured(runs, results, "course")
        rows = [_row(run, stored) for run, stored in grid]
        laws = _laws(grid, "learned")
        figures = [grid_figure(settings, rows)] if rows else []
        tables = [
            _grid_table(label, rows),
            exponent_table(
                f"locality-exponents-{label}",
                f"Exponent of the epochs to {GOAL} in 2^-near - 2^-far",
                laws,
                THEORY,
            ),
        ]
        notes = [
            f"A trial counts as learned at the first measured epoch with {GOAL} on its test set. "
            "The theorem is about plain gradient descent; of Adam only the order is judged."
        ]
        if aligned:
            run = aligned[0][0]
            figures.append(
                gate_figure(
                    f"locality-alignment-{label}",
                    "Locality: alignment of the gating vector",
                    aligned,
                    _series(run),
                )
            )
            tables.append(conditions_table(f"conditions-{label}", run, run.epochs))
            notes.append(bayes_note(run.pattern, run.noise.scale))
        return Outcome(
            experiment=f"{self.name}-{label}",
            title="Locality: how fast it is learned from sequences",
            summary=f"{sum(row['trials'] for row in rows)} trainings of the gated SSM in "
            f"{len(rows)} settings; {sum(row['reached'] for row in rows)} learned it ({GOAL}), "
            f"{sum(row['diverged'] for row in rows)} diverged.",
            claims=[*_series_claims(grid, rows, laws), *_gate_claims(aligned)],
            figures=figures,
            tables=tables,
            notes=notes,
            numbers={
                "setting": label,
                "goal": GOAL,
                "grid": rows,
                "exponents": {key: law_numbers(law, THEORY) for key, law in laws.items()},
                "alignment": [gate_numbers(*pair) for pair in aligned],
            },
        )


def grid_figure(settings: GatedSettings, rows: Sequence[dict[str, Any]]) -> Figure:
    """Epochs to having learned against the separation, one line per way of training."""
    name, title = f"locality-epochs-{settings.label}", f"Locality: epochs to {GOAL}"
    return epochs_figure(name, title, SEPARATION, "epochs", rows, THEORY)


def _run(scale: _Scale, data: _Data, near: int, trials: int) -> GatedTrials:
    ways: dict[str, Any] = {
        "optimizer": "adam", "gate_step_size": 0.01, "readout_step_size": 0.3,
    }  # fmt: skip
    if data.plain:
        ways = {"schedule": "stable", "gate_step_size": 1.0, "readout_step_size": 100.0}
    return GatedTrials(
        pattern=Locality(near, scale.far, scale.length, scale.dim),
        noise=GaussianNoise(data.noise),
        samples=data.samples,
        source=data.source,
        width=scale.width,
        readout_scale=0.01,
        epochs=data.epochs,
        target=HINGE if data.noise or data.plain else _SMALL_LOSS,
        target_accuracy=ACCURACY,
        trials=max(1, trials // 5) if data.plain else trials,
        **ways,
    )


def _series(run: GatedTrials) -> str:
    sources = {"fixed": "", "paired": ", paired", "fresh": " per step, fresh", "population": ""}
    way = "Adam" if run.optimizer == "adam" else "plain, stable steps"
    return f"{way}, N = {run.samples}{sources[run.source]}, tau = {run.noise.scale:g}"


def _row(run: GatedTrials, stored: StoredRun) -> dict[str, Any]:
    """When it was learned, what held where training ended, and what the two modes could do."""
    small = run.target == _SMALL_LOSS
    best = None
    if run.noise.scale and isinstance(run.pattern, Locality):
        best = best_two_mode_accuracy(
            run.pattern, run.noise, u=(0, 0.5, 1, 1.5, 2, 3), samples=1000
        )
    return {
        "near": near_of(run),
        **trial_row(_series(run), run, stored, "learned"),
        "small_loss": shown(median_with_interval(outcomes_of(stored)), ".0f") if small else None,
        "last_loss": float(np.median(final(stored, "test_loss"))),
        "last_accuracy": float(np.median(final(stored, "test_accuracy"))),
        "best_two_modes": best,
    }


def _laws(grid: Sequence[Measured], goal: Goal) -> dict[str, PowerLaw | None]:
    return {
        series: law_of([pair for pair in grid if _series(pair[0]) == series], goal)
        for series in dict.fromkeys(_series(run) for run, _ in grid)
    }


def _grid_table(label: str, rows: Sequence[dict[str, Any]]) -> Table:
    return Table(
        f"locality-grid-{label}",
        f"Epochs to {GOAL}",
        [
            Column("series", "training"),
            Column("near", "near"),
            Column("gap", "2^-near - 2^-far", ".4f"),
            Column("reached", "learned"),
            Column("trials", "trials"),
            Column("diverged", "diverged"),
            Column("shown_epochs", "median epochs (95 % interval)"),
            Column("small_loss", "epochs to loss 1e-3"),
            Column("last_loss", "loss at the end", ".4f"),
            Column("last_accuracy", "accuracy at the end", ".3f"),
            Column("best_two_modes", "best of the two modes", ".3f"),
        ],
        rows,
        "Medians over all trials; one that did not get there is censored. Without noise Adam "
        "trains on to loss 1e-3, all others to the goal. Best of the two modes: accuracy of the "
        "best model whose read-outs are o_+ and o_- alone, on a grid of gates, under the noise.",
    )


def _series_claims(
    grid: Sequence[Measured],
    rows: Sequence[dict[str, Any]],
    laws: dict[str, PowerLaw | None],
) -> list[Claim]:
    plain = {_series(run) for run, _ in grid if run.optimizer == "gd"}
    claims = []
    for series, law in laws.items():
        points = [row for row in rows if row["series"] == series]
        counts = ", ".join(
            f"near = {row['near']}: {row['reached']} of {row['trials']}" for row in points
        )
        learned = all(2 * row["reached"] >= row["trials"] for row in points)
        claims.append(
            Claim(
                f"Locality is learned to {GOAL} at every separation, by half of the trials or "
                f"more ({series}).",
                "holds" if learned else "does not hold",
                counts,
                holds=learned,
            )
        )
        statement = f"Epochs to {GOAL} grow with the near pair's separation ({series})."
        claims.append(order_claim(statement, points, "grows", f"near = {points[0]['near']}"))
        if series in plain:
            claims.append(
                exponent_claim(
                    f"T of the order of L^2 / (eta (2^-near - 2^-far)) is enough ({series}).",
                    law,
                    THEORY,
                    sufficient=True,
                )
            )
    return claims


def _gate_claims(aligned: Sequence[Measured]) -> list[Claim]:
    """The gate where training ended, by separation."""
    return [
        gate_claim(near_of(run), last_rows(stored), "Adam, at the end") for run, stored in aligned
    ]

"""How fast does a gated SSM learn which pair lies close together, and what does its gate learn?

Figures 3 and 4 of arXiv 2602.12499: epochs to the target against 2^-near - 2^-far, and the
alignment of the gating vector over the epochs, with the near = 1 case in which the sign turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keelback.dynamics import Locality, PowerLaw, fit_power_law
from keelback.dynamics.descent import Source
from keelback.experiments.experiment import Experiment
from keelback.experiments.second_paper.gated_experiment import (
    GatedSettings,
    Measured,
    count_of_trainings,
    measured,
    order_claim,
)
from keelback.experiments.second_paper.gated_reading import (
    alignment_panels,
    bayes_note,
    conditions_table,
    epochs_figure,
    exponent_claim,
    exponent_table,
    final,
    grid_table,
    law_numbers,
    trial_row,
)
from keelback.experiments.second_paper.gated_trials import RANKING, GatedTrials, Goal, outcomes_of
from keelback.outcome import Claim, Column, Figure, Outcome, Table
from keelback.sweeps.store import StoredRun

THEORY = -1.0
"""Exponent of the epochs in 2^-near - 2^-far: T ~ L^2 / (eta (2^-near - 2^-far))."""


@dataclass(frozen=True)
class _Scale:
    length: int
    dim: int
    width: int
    far: int
    near: tuple[int, ...]
    data: tuple[tuple[Source, int], ...]
    step_size: float
    epochs: int
    target: float
    trials: int
    aligned: tuple[Source, int, int, tuple[int, ...]]
    """Source, samples, epochs and near separations of the alignment figure."""


_SCALES = {
    "paper": _Scale(
        20, 32, 50, 12, (1, 2, 3, 4, 5), (("paired", 1000), ("fixed", 500)),
        5.0, 10000, 0.9, 100, ("fresh", 512, 3000, (3, 2, 1)),
    ),
    "theorem": _Scale(
        20, 7, 100, 12, (1, 2, 3, 4, 5), (("paired", 1000),),
        5.0, 10000, 0.9, 100, ("fresh", 512, 3000, (3, 2, 1)),
    ),
    "quick": _Scale(
        14, 8, 20, 9, (1, 2, 3), (("paired", 256),),
        10.0, 2500, 0.9, 4, ("paired", 256, 400, (3, 1)),
    ),
}  # fmt: skip


class LocalityExperiment(Experiment[GatedSettings]):
    """Epochs to the target against the near separation, and the alignment of the gate."""

    name: ClassVar[str] = "locality"
    summary: ClassVar[str] = "how fast does a gated SSM learn which pair is close, by what gate?"
    settings_type = GatedSettings

    def runs(self, settings: GatedSettings) -> list[GatedTrials]:
        """The grid of data sources and separations, then the runs of the alignment figure."""
        scale = _SCALES[settings.label]
        trials = settings.trials or scale.trials
        grid = [
            GatedTrials(
                pattern=Locality(near, scale.far, scale.length, scale.dim),
                samples=samples,
                source=source,
                width=scale.width,
                step_size=scale.step_size,
                epochs=scale.epochs,
                target=scale.target,
                trials=trials,
            )
            for source, samples in scale.data
            for near in scale.near
        ]
        source, samples, epochs, separations = scale.aligned
        aligned = [
            GatedTrials(
                pattern=Locality(near, scale.far, scale.length, scale.dim),
                samples=samples,
                source=source,
                width=scale.width,
                step_size=scale.step_size,
                epochs=epochs,
                target=scale.target,
                stop_at_target=False,
                trials=min(20, trials),
                record="course",
            )
            for near in separations
        ]
        return [*grid, *aligned]

    def outcome(self, settings: GatedSettings, results: Sequence[StoredRun]) -> Outcome:
        """The two figures, success shares, fitted exponents, and a verdict for each claim."""
        runs = self.runs(settings)
        grid, aligned = measured(runs, results, "ends"), measured(runs, results, "course")
        rows = [
            {"near": _near(run), **trial_row(_series(run), run, stored)} for run, stored in grid
        ]
        ranked = [_ranking_row(run, stored) for run, stored in grid]
        laws, ranking_laws = _laws(grid, "target"), _laws(grid, "ranking")
        inside = [(run, stored) for run, stored in grid if _near(run) > 1]
        target = _SCALES[settings.label].target
        figures = [
            epochs_figure(
                f"locality-epochs-{settings.label}",
                "Locality: epochs to the target",
                "2^-near - 2^-far",
                f"epochs to test loss {target:g}",
                rows,
                THEORY,
            ),
            epochs_figure(
                f"locality-ranking-{settings.label}",
                f"Locality: epochs to ranking {RANKING:g}",
                "2^-near - 2^-far",
                f"epochs to ranking {RANKING:g}",
                ranked,
                THEORY,
            ),
        ]
        tables = [
            grid_table(
                f"locality-grid-{settings.label}",
                f"Epochs to test loss {target:g}",
                "2^-near - 2^-far",
                rows,
            ),
            _ranking_table(settings, ranked),
            exponent_table(
                f"locality-exponents-{settings.label}",
                "Exponent of the epochs in 2^-near - 2^-far",
                {
                    **{f"{series}, loss {target:g}": law for series, law in laws.items()},
                    **{f"{series}, ranking": law for series, law in ranking_laws.items()},
                    **{
                        f"{series}, ranking, near >= 2": law
                        for series, law in _laws(inside, "ranking").items()
                    },
                },
                THEORY,
            ),
        ]
        notes = [_target_note(target)]
        if aligned:
            run = aligned[0][0]
            figures.append(_alignment_figure(settings, aligned))
            tables.append(conditions_table(f"conditions-{settings.label}", run, run.epochs))
            notes.append(bayes_note(run.pattern, run.noise.scale))
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title="Locality: how fast the gate learns",
            summary=count_of_trainings(rows, f"test loss {target:g}"),
            claims=[
                *_rate_claims(laws, rows, f"test loss {target:g}"),
                *_rate_claims(ranking_laws, ranked, f"ranking {RANKING:g}"),
                *(_gate_claim(*pair) for pair in aligned),
            ],
            figures=figures,
            tables=tables,
            notes=notes,
            numbers={
                "setting": settings.label,
                "target": target,
                "grid": rows,
                "exponents": {key: law_numbers(law, THEORY) for key, law in laws.items()},
                "ranking": ranked,
                "ranking_exponents": {
                    key: law_numbers(law, THEORY) for key, law in ranking_laws.items()
                },
                "alignment": [_alignment_numbers(*pair) for pair in aligned],
            },
        )


def _near(run: GatedTrials) -> int:
    assert isinstance(run.pattern, Locality)
    return run.pattern.near


def _series(run: GatedTrials) -> str:
    sources = {"fixed": "", "paired": ", paired", "fresh": " a step, fresh"}
    return f"N = {run.samples}{sources[run.source]}"


def _laws(grid: Sequence[Measured], goal: Goal) -> dict[str, PowerLaw | None]:
    return {
        series: fit_power_law(
            [run.pattern.gap for run, _ in grid if _series(run) == series],
            [
                np.maximum(outcomes_of(stored, goal), 1)  # Initial weights may rank by chance.
                for run, stored in grid
                if _series(run) == series
            ],
        )
        for series in dict.fromkeys(_series(run) for run, _ in grid)
    }


def _ranking_row(run: GatedTrials, stored: StoredRun) -> dict[str, Any]:
    """How soon test sequences were ranked, and what held where training ended."""
    return {
        "near": _near(run),
        **trial_row(_series(run), run, stored, "ranking"),
        "last_ranking": float(np.median(final(stored, "test_ranking"))),
        "last_accuracy": float(np.median(final(stored, "test_accuracy"))),
    }


def _ranking_table(settings: GatedSettings, rows: Sequence[dict[str, Any]]) -> Table:
    return Table(
        f"locality-ranking-{settings.label}",
        f"Epochs to ranking {RANKING:g}",
        [
            Column("series", "data"),
            Column("gap", "2^-near - 2^-far", ".4f"),
            Column("reached", "reached"),
            Column("trials", "trials"),
            Column("shown_epochs", "median epochs (95 % interval)"),
            Column("last_ranking", "ranking at the end", ".2f"),
            Column("last_accuracy", "accuracy at the end", ".2f"),
        ],
        rows,
        "Ranking: chance that F is larger for a sequence with z = +1 than for one with z = -1. "
        "The end: where the test loss met the target, or the last epoch; medians over trials.",
    )


def _target_note(target: float) -> str:
    return (
        f"The target is test loss {target:g}, not the 1e-3 of majority voting: the distance of a "
        "pair shows in the state only through what the gate forgets in between, so W_O must grow "
        "large before the hinge is met, and full-batch descent turns unstable at these step sizes "
        "before the loss is small. Early in training a smaller step only stretches time. F has no "
        "bias, and early on it is off by a constant that differs from trial to trial; its sign, "
        "and so the accuracy, says less of what was learned than whether it ranks sequences."
    )


def _rate_claims(
    laws: dict[str, PowerLaw | None], rows: Sequence[dict[str, Any]], goal: str
) -> list[Claim]:
    claims = []
    for series, law in laws.items():
        points = [row for row in rows if row["series"] == series]
        statement = f"Epochs to {goal} grow with the near pair's separation ({series})."
        first = f"near = {points[0]['near']}"
        claims.append(order_claim(statement, points, "grows", first, "separations"))
        claims.append(
            exponent_claim(f"T ~ L^2 / (eta (2^-near - 2^-far)) to {goal} ({series}).", law, THEORY)
        )
    return claims


def _gate_claim(run: GatedTrials, stored: StoredRun) -> Claim:
    """near >= 2 closes the gate for irrelevant features; near = 1 does not."""
    rest = final(stored, "projection_irrelevant_mean")
    relevant = [
        abs(value)
        for key in ("projection_o_plus", "projection_o_minus")
        for value in final(stored, key)
    ]
    near, mean = _near(run), float(np.median(rest))
    evidence = (
        f"after {run.epochs} epochs, over {len(rest)} trials: mean <w, o> over irrelevant features "
        f"{min(rest):+.2f} to {max(rest):+.2f}, median {mean:+.2f}; |<w, o_+->| at most "
        f"{max(relevant):.2f}"
    )
    if near == 1:
        turned = min(rest) > 0
        return Claim(
            "near = 1: no irrelevant token lies inside the near pair, and w does not turn "
            "negative on irrelevant features.",
            "holds" if turned else "does not hold",
            evidence,
            holds=turned,
        )
    closed = max(rest) < 0 and np.median(relevant) < 0.25 * abs(mean)
    return Claim(
        f"near = {near}: w stays near zero on o_+ and o_- and goes strongly negative on "
        f"irrelevant features.",
        "holds" if closed else "does not hold",
        evidence,
        holds=bool(closed),
    )


def _alignment_figure(settings: GatedSettings, aligned: Sequence[Measured]) -> Figure:
    run = aligned[0][0]
    return Figure(
        f"locality-alignment-{settings.label}",
        "Locality: alignment of the gating vector",
        [alignment_panels(stored, "projection", f"near = {_near(run)}") for run, stored in aligned],
        f"{_series(run)}; median over {run.trials} trials, band: least to most.",
    )


def _alignment_numbers(run: GatedTrials, stored: StoredRun) -> dict[str, Any]:
    keys = ("o_plus", "o_minus", "irrelevant_mean")
    return {
        "near": _near(run),
        "epochs": run.epochs,
        "trials": run.trials,
        **{
            f"projection_{key}": [
                min(final(stored, f"projection_{key}")),
                max(final(stored, f"projection_{key}")),
            ]
            for key in keys
        },
    }

"""How many samples does a gated SSM need?

Success probability over the number of samples and the gap, and the threshold at which half of the
trials succeed, found by bisection; its exponent in the gap beside the -2 of arXiv 2602.12499.
Majority voting is asked for test loss 1e-3 by gradient descent; locality, by Adam and without
noise, for accuracy .99 and hinge loss .1 at the same epoch, both on sequences that were not seen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import PositiveInt, field_validator

from keelback.dynamics import (
    GaussianNoise,
    Locality,
    MajorityVoting,
    share_with_interval,
)
from keelback.experiments.experiment import Experiment, Settings
from keelback.experiments.second_paper.gated_reading import (
    SEPARATION,
    exponent_claim,
    law_numbers,
    theory_line,
)
from keelback.experiments.second_paper.gated_trials import (
    ACCURACY,
    HINGE,
    RANKING,
    GatedTrials,
    outcomes_of,
)
from keelback.experiments.second_paper.sample_threshold import (
    SampleThreshold,
    inside_range,
    threshold_law,
    threshold_row,
)
from keelback.outcome import Column, Figure, Heatmap, Line, Outcome, Panel, Table
from keelback.sweeps.store import StoredRun

THEORY = -2.0
"""Exponent of the samples in the gap, for both kinds of data."""


_DESCENT: Mapping[str, Any] = {"step_size": 0.5}
_ADAM: Mapping[str, Any] = {
    "noise": GaussianNoise(0.0), "optimizer": "adam", "gate_step_size": 0.01,
    "readout_step_size": 0.3, "readout_scale": 0.01, "target_accuracy": ACCURACY,
}  # fmt: skip
"""How each kind of data is trained, besides what its scale says."""


@dataclass(frozen=True)
class _Scale:
    patterns: tuple[MajorityVoting | Locality, ...]
    samples: tuple[int, ...]
    width: int
    epochs: int
    target: float
    trials: int
    training: Mapping[str, Any]

    @property
    def goal(self) -> str:
        """What a trial has to reach on its test set."""
        accuracy = self.training.get("target_accuracy")
        if accuracy is None:
            return f"test loss {self.target:g}"
        return f"accuracy {accuracy:g} and hinge {self.target:g}"


def _majorities(
    length: int, dim: int, other: int, own: Sequence[int]
) -> tuple[MajorityVoting, ...]:
    return tuple(MajorityVoting(k / length, other / length, length, dim) for k in own)


def _localities(dim: int, near: Sequence[int]) -> tuple[Locality, ...]:
    return tuple(Locality(k, 6, 9, dim) for k in near)


_SCALES = {
    ("majority", "paper"): _Scale(
        _majorities(30, 32, 3, (6, 8, 10, 13, 18)),
        (8, 16, 32, 64, 128, 256, 512), 50, 6000, 1e-3, 100, _DESCENT,
    ),
    ("majority", "theorem"): _Scale(
        _majorities(30, 7, 3, (6, 8, 10, 13, 18)),
        (4, 8, 16, 32, 64, 128, 256), 100, 6000, 1e-3, 100, _DESCENT,
    ),
    ("majority", "quick"): _Scale(
        _majorities(10, 8, 1, (4, 5, 7)), (4, 8, 16, 32, 64), 8, 600, 1e-2, 10, _DESCENT
    ),
    ("locality", "paper"): _Scale(
        _localities(32, (1, 2, 3, 4)),
        (16, 32, 64, 128, 256, 512), 50, 4000, HINGE, 100, _ADAM,
    ),
    ("locality", "theorem"): _Scale(
        _localities(7, (1, 2, 3, 4)),
        (8, 16, 32, 64, 128, 256), 100, 4000, HINGE, 100, _ADAM,
    ),
    ("locality", "quick"): _Scale(
        _localities(6, (1, 2, 3)), (8, 16, 32, 64), 20, 1000, HINGE, 8, _ADAM,
    ),
}  # fmt: skip


class SampleComplexitySettings(Settings):
    """Which data, and which setting: "paper" or one that meets the theorem's conditions."""

    data: Literal["majority", "locality"] = "majority"
    setting: Literal["paper", "theorem"] = "paper"
    trials: PositiveInt | None = None

    @field_validator("data", mode="before")
    @classmethod
    def _last_part(cls, given: object) -> object:
        """`reproduce --data` reads its value as a path and makes it absolute."""
        return Path(given).name if isinstance(given, str | Path) else given

    @property
    def label(self) -> str:
        """The data and quick, paper or theorem."""
        return f"{self.data}-{'quick' if self.quick else self.setting}"

    @property
    def scale(self) -> _Scale:
        """The grid of the setting."""
        return _SCALES[self.data, "quick" if self.quick else self.setting]


class SampleComplexity(Experiment[SampleComplexitySettings]):
    """Success probability over N and the gap, and the threshold's exponent in the gap."""

    name: ClassVar[str] = "sample-complexity"
    summary: ClassVar[str] = "how many samples does a gated SSM need, against the gap?"
    settings_type = SampleComplexitySettings

    def runs(self, settings: SampleComplexitySettings) -> list[GatedTrials]:
        """The grid of gap and N, then one bisection a gap."""
        scale = settings.scale
        shared: dict[str, Any] = {
            **scale.training,
            "width": scale.width,
            "epochs": scale.epochs,
            "target": scale.target,
            "trials": settings.trials or scale.trials,
        }
        grid = [
            GatedTrials(pattern=pattern, samples=samples, **shared)
            for pattern in scale.patterns
            for samples in scale.samples
        ]
        thresholds = [
            SampleThreshold(
                pattern=pattern, samples=scale.samples[-1], fewest=scale.samples[0], **shared
            )
            for pattern in scale.patterns
        ]
        return [*grid, *thresholds]

    def outcome(self, settings: SampleComplexitySettings, results: Sequence[StoredRun]) -> Outcome:
        """The heatmap of success, the thresholds with intervals, and the exponent's verdict."""
        by_name = {result.name: result for result in results}
        found = [(run, by_name[run.name]) for run in self.runs(settings) if run.name in by_name]
        grid = [_grid_row(run, stored) for run, stored in found if run.kind == GatedTrials.kind]
        bisected = [pair for pair in found if pair[0].kind == SampleThreshold.kind]
        thresholds = [threshold_row(run, stored.history()) for run, stored in bisected]
        ranking = [
            threshold_row(run, _ranked([*stored.history(), *_at_gap(grid, run)]))
            for run, stored in bisected
            if settings.data == "locality"  # Four sequences teach to rank a majority.
        ]
        law, ranking_law = threshold_law(thresholds), threshold_law(ranking)
        gap = "gap" if settings.data == "majority" else "(2^-near - 2^-far)"
        rows, ranking_rows = (
            [{k: v for k, v in row.items() if k != "resampled"} for row in found_rows]
            for found_rows in (thresholds, ranking)
        )
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title=f"Samples that a gated SSM needs: {settings.data}",
            summary=(
                f"Success: {settings.scale.goal} within {settings.scale.epochs} epochs of "
                f"training on N sequences that are drawn once."
            ),
            claims=[
                exponent_claim(
                    f"N of the order of {gap}^-2 is enough{goal}.",
                    found_law,
                    THEORY,
                    sufficient=True,
                )
                for goal, found_law in (("", law), (f" for ranking {RANKING:g}", ranking_law))
                if goal == "" or ranking
            ],
            figures=[_figure(settings, grid, rows, ranking_rows)],
            tables=[_threshold_table(settings, rows, ranking_rows)],
            numbers={
                "setting": settings.label,
                "grid": grid,
                "thresholds": _finite_numbers(rows),
                "exponent": law_numbers(law, THEORY),
                "ranking_thresholds": _finite_numbers(ranking_rows),
                "ranking_exponent": law_numbers(ranking_law, THEORY),
            },
        )


def _grid_row(run: GatedTrials, stored: StoredRun) -> dict[str, Any]:
    trials, reached = int(stored.summary["trials"] or 0), int(stored.summary["reached"] or 0)
    share = share_with_interval(reached, trials)
    return {
        "gap": run.pattern.gap,
        "samples": run.samples,
        "trials": trials,
        "reached": reached,
        "ranked": int(np.isfinite(outcomes_of(stored, "ranking")).sum()),
        "share": share.value,
        "share_low": share.low,
        "share_high": share.high,
    }


def _at_gap(grid: Sequence[dict[str, Any]], run: GatedTrials) -> list[dict[str, Any]]:
    return [row for row in grid if row["gap"] == run.pattern.gap]


def _ranked(tried: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The numbers of samples that were tried, with trials that ranked well as the successes."""
    by_samples = {
        row["samples"]: {
            "samples": row["samples"],
            "trials": row["trials"],
            "successes": row["ranked"],
        }
        for row in tried
    }
    return [by_samples[samples] for samples in sorted(by_samples)]


def _finite_numbers(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in row.items()}
        for row in rows
    ]


def _figure(
    settings: SampleComplexitySettings,
    grid: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    ranking: Sequence[dict[str, Any]],
) -> Figure:
    gap = "gap α_r − α_c" if settings.data == "majority" else SEPARATION
    gaps = sorted({row["gap"] for row in grid})
    samples = sorted({row["samples"] for row in grid})
    share = {(row["gap"], row["samples"]): row["share"] for row in grid}
    heatmap = Heatmap(
        [f"{g:.3g}" for g in gaps],
        [str(n) for n in reversed(samples)],
        [[share.get((g, n)) for g in gaps] for n in reversed(samples)],
        "share of trials",
        0.0,
        1.0,
    )
    inside = inside_range(rows)
    lines = [_threshold_line(inside, f"half reach {settings.scale.goal}")]
    if ranked := inside_range(ranking):
        lines.append(_threshold_line(ranked, f"half reach ranking {RANKING:g}"))
    if len(inside) > 1:
        gaps_inside = [row["gap"] for row in inside]
        slope = theory_line(gaps_inside, [row["threshold"] for row in inside], THEORY)
        lines += [slope] if slope else []
    return Figure(
        f"samples-{settings.label}",
        f"Samples needed: {settings.data}",
        [
            Panel(gap, "samples N", "share of trials that succeed", heatmap=heatmap),
            Panel(gap, "samples N", "threshold", lines=lines, log_x=True, log_y=True),
        ],
        f"Left: share that reach {settings.scale.goal}. Right: N at which half of the trials "
        "succeed, by bisection"
        + (", from the same trainings for the ranking" if ranking else "")
        + "; band: 95 % by resampling the successes.",
    )


def _threshold_line(inside: Sequence[dict[str, Any]], label: str) -> Line:
    return Line(
        [row["gap"] for row in inside],
        [row["threshold"] for row in inside],
        label,
        [row["low"] if row["low"] > 0 else None for row in inside],
        [row["high"] if row["high"] < math.inf else None for row in inside],
    )


def _threshold_table(
    settings: SampleComplexitySettings,
    rows: Sequence[dict[str, Any]],
    ranking: Sequence[dict[str, Any]],
) -> Table:
    scale = settings.scale
    shown = [
        {
            **row,
            "shown": _bounded(row["threshold"], scale),
            "interval": _shown_interval(row, scale),
        }
        for row in rows
    ]
    for row, ranked in zip(shown, ranking, strict=False):
        row["ranking"] = _bounded(ranked["threshold"], scale)
        row["ranking_interval"] = _shown_interval(ranked, scale)
    ranking_columns = [
        Column("ranking", f"samples for ranking {RANKING:g}"),
        Column("ranking_interval", "95 % interval"),
    ]
    return Table(
        f"samples-{settings.label}",
        "Samples at which half of the trials succeed",
        [
            Column("gap", "gap" if settings.data == "majority" else "2^-near - 2^-far", ".4f"),
            Column("shown", "samples"),
            Column("interval", "95 % interval"),
            *(ranking_columns if ranking else []),
            Column("tried", "numbers of samples tried"),
            Column("trials", "trainings"),
        ],
        shown,
    )


def _shown_interval(row: dict[str, Any], scale: _Scale) -> str:
    return f"{_bounded(row['low'], scale)} to {_bounded(row['high'], scale)}"


def _bounded(samples: float, scale: _Scale) -> str:
    if samples == 0:
        return f"under {scale.samples[0]}"
    return f"over {scale.samples[-1]}" if math.isinf(samples) else f"{samples:.0f}"

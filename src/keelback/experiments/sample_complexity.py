"""How many samples does a gated SSM need?

Success probability over the number of samples and the gap, and the threshold at which half of the
trials succeed, found by bisection; its exponent in the gap beside the -2 of arXiv 2602.12499.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, field_validator

from keelback.data import Locality, MajorityVoting
from keelback.dynamics import PowerLaw, power_law_through, share_with_interval
from keelback.experiments.experiment import Experiment, Settings
from keelback.experiments.gated_reading import exponent_claim, law_numbers
from keelback.experiments.gated_trials import GatedTrials, epochs_to_ranking, use_device
from keelback.experiments.outcome import Column, Figure, Heatmap, Line, Outcome, Panel, Table
from keelback.experiments.run import Progress, RunResult
from keelback.experiments.store import StoredRun
from keelback.training.gradient_descent import train_gated

THEORY = -2.0
"""Exponent of the samples in the gap, for both kinds of data."""

_RESAMPLES = 500


class SampleThreshold(GatedTrials):
    """Bisection for the number of samples at which half of the trials succeed.

    `samples` is the most that is tried, `fewest` the least; every step trains all trials on one
    number of samples and goes on in the half where the share of successes crosses one half, until
    the ends are within `resolution` of each other.
    """

    kind: ClassVar[str] = "sample-threshold"

    fewest: int = Field(ge=2)
    resolution: float = Field(default=1.1, gt=1)

    def batch_key(self) -> str:
        """Each threshold is a batch of its own on the CPU; a GPU takes one after the other."""
        shared = super().batch_key()
        return shared if shared == self.kind else self.name

    @classmethod
    def execute(cls, runs: Sequence[Self], progress: Progress) -> Iterator[tuple[Self, RunResult]]:
        """Bisect for one run after the other."""
        device = use_device()
        for place, run in enumerate(runs):
            steps = run.steps()
            tried: list[dict[str, Any]] = []
            low, high = run.fewest, run.samples
            for count in (low, high):
                tried.append(run.attempt(count, device))
                progress((place + len(tried) / steps) / len(runs))
            if tried[0]["successes"] * 2 < run.trials <= tried[1]["successes"] * 2:
                while high / low > run.resolution and high - low > 2:
                    middle = 2 * round(math.sqrt(low * high) / 2)
                    if not low < middle < high:
                        break
                    tried.append(run.attempt(middle, device))
                    progress((place + min(1.0, len(tried) / steps)) / len(runs))
                    if tried[-1]["successes"] * 2 >= run.trials:
                        high = middle
                    else:
                        low = middle
            rows = sorted(tried, key=lambda row: row["samples"])
            progress((place + 1) / len(runs))
            yield run, RunResult({"trials": run.trials, "tried": len(rows)}, rows)

    def steps(self) -> int:
        """Numbers of samples that the bisection tries at most."""
        ratio = math.log(self.samples / self.fewest) / math.log(self.resolution)
        return 2 + max(0, math.ceil(math.log2(max(ratio, 1))))

    def attempt(self, samples: int, device: str) -> dict[str, Any]:
        """Train all trials on one number of samples and count the successes."""
        trials = self.model_copy(update={"samples": samples}).trainings()
        histories = train_gated(trials, device=device)
        ended = [history.status for history in histories]
        return {
            "samples": samples,
            "trials": len(ended),
            "successes": ended.count("reached"),
            "diverged": ended.count("diverged"),
            "ranked": sum(epochs_to_ranking(history) is not None for history in histories),
        }


@dataclass(frozen=True)
class _Scale:
    patterns: tuple[MajorityVoting | Locality, ...]
    samples: tuple[int, ...]
    width: int
    step_size: float
    epochs: int
    target: float
    trials: int


def _majorities(
    length: int, dim: int, other: int, own: Sequence[int]
) -> tuple[MajorityVoting, ...]:
    return tuple(MajorityVoting(k / length, other / length, length, dim) for k in own)


_SCALES = {
    ("majority", "paper"): _Scale(
        _majorities(30, 32, 3, (6, 8, 10, 13, 18)),
        (8, 16, 32, 64, 128, 256, 512), 50, 0.5, 6000, 1e-3, 100,
    ),
    ("majority", "theorem"): _Scale(
        _majorities(30, 7, 3, (6, 8, 10, 13, 18)),
        (4, 8, 16, 32, 64, 128, 256), 100, 0.5, 6000, 1e-3, 100,
    ),
    ("majority", "quick"): _Scale(
        _majorities(10, 8, 1, (4, 5, 7)), (4, 8, 16, 32, 64), 8, 0.5, 600, 1e-2, 10
    ),
    ("locality", "paper"): _Scale(
        tuple(Locality(near, 6, 9, 32) for near in (1, 2, 3)),
        (8, 16, 32, 64, 128, 256, 512, 1024), 50, 10.0, 5000, 0.9, 100,
    ),
    ("locality", "theorem"): _Scale(
        tuple(Locality(near, 6, 9, 7) for near in (1, 2, 3)),
        (4, 8, 16, 32, 64, 128, 256), 100, 10.0, 2000, 0.9, 100,
    ),
    ("locality", "quick"): _Scale(
        tuple(Locality(near, 6, 9, 6) for near in (1, 2, 3)),
        (16, 32, 64, 128), 8, 10.0, 600, 0.95, 8,
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
            "width": scale.width,
            "step_size": scale.step_size,
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
        thresholds = [
            _threshold_row(run, stored) for run, stored in found if run.kind == SampleThreshold.kind
        ]
        law = _threshold_law(thresholds)
        gap = "gap" if settings.data == "majority" else "(2^-near - 2^-far)"
        rows = [{k: v for k, v in row.items() if k != "resampled"} for row in thresholds]
        numbers = [
            {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in row.items()}
            for row in rows
        ]
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title=f"Samples that a gated SSM needs: {settings.data}",
            summary=(
                f"Success: test loss {settings.scale.target:g} within {settings.scale.epochs} "
                f"epochs of training on N sequences that are drawn once."
            ),
            claims=[
                exponent_claim(
                    f"N of the order of {gap}^-2 is enough.", law, THEORY, sufficient=True
                )
            ],
            figures=[_figure(settings, grid, rows, law)],
            tables=[_threshold_table(settings, rows)],
            numbers={
                "setting": settings.label,
                "grid": grid,
                "thresholds": numbers,
                "exponent": law_numbers(law, THEORY),
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
        "share": share.value,
        "share_low": share.low,
        "share_high": share.high,
    }


def _threshold_row(run: GatedTrials, stored: StoredRun) -> dict[str, Any]:
    """The threshold, and thresholds of resampled successes for its interval.

    Below the fewest samples tried the threshold is taken as 0, above the most as infinite.
    """
    tried: Sequence[Any] = stored.history()
    samples = np.array([row["samples"] for row in tried], dtype=float)
    trials = np.array([row["trials"] for row in tried])
    successes = np.array([row["successes"] for row in tried])
    rng = np.random.default_rng(0)
    resampled = [
        _crossing(samples, rng.binomial(trials, (successes + 0.5) / (trials + 1)) / trials)
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(np.sort(resampled), [0.025, 0.975], method="nearest")
    return {
        "gap": run.pattern.gap,
        "threshold": _crossing(samples, successes / trials),
        "low": float(low),
        "high": float(high),
        "tried": len(tried),
        "trials": int(trials.sum()),
        "resampled": np.array(resampled),
    }


def _crossing(samples: np.ndarray, shares: np.ndarray) -> float:
    """Where the success share, made monotone, crosses one half; linear in log samples."""
    rising = _isotonic(shares)
    if rising[0] >= 0.5:
        return 0.0
    if rising[-1] < 0.5:
        return math.inf
    after = int(np.argmax(rising >= 0.5))
    low, high = rising[after - 1], rising[after]
    part = (0.5 - low) / (high - low)
    return float(np.exp(np.interp(part, [0, 1], np.log(samples[after - 1 : after + 1]))))


def _isotonic(shares: np.ndarray) -> np.ndarray:
    """Nearest non-decreasing sequence, by pooling neighbours that fall."""
    pools: list[list[float]] = []
    for share in shares:
        pools.append([float(share), 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            value, count = pools.pop()
            before, number = pools[-1]
            pools[-1] = [(before * number + value * count) / (number + count), number + count]
    return np.concatenate([np.full(int(count), value) for value, count in pools])


def _threshold_law(rows: Sequence[dict[str, Any]]) -> PowerLaw | None:
    """Exponent of the thresholds that lie inside the range that was tried."""
    inside = [row for row in rows if 0 < row["threshold"] < math.inf]
    if not inside:
        return None
    return power_law_through(
        [row["gap"] for row in inside],
        np.array([row["threshold"] for row in inside]),
        np.stack([row["resampled"] for row in inside], axis=1),
    )


def _figure(
    settings: SampleComplexitySettings,
    grid: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    law: PowerLaw | None,
) -> Figure:
    gap = "gap alpha_r - alpha_c" if settings.data == "majority" else "2^-near - 2^-far"
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
    inside = [row for row in rows if 0 < row["threshold"] < math.inf]
    lines = [
        Line(
            [row["gap"] for row in inside],
            [row["threshold"] for row in inside],
            "half of the trials succeed",
            [row["low"] if row["low"] > 0 else None for row in inside],
            [row["high"] if row["high"] < math.inf else None for row in inside],
        )
    ]
    if law is not None and len(inside) > 1:
        ends = [min(row["gap"] for row in inside), max(row["gap"] for row in inside)]
        middle = math.exp(float(np.mean(np.log([row["gap"] for row in inside]))))
        lines.append(
            Line(
                ends,
                [law.at(middle) * (end / middle) ** THEORY for end in ends],
                "slope -2 (theory)",
                style="dashed",
            )
        )
    return Figure(
        f"samples-{settings.label}",
        f"Samples needed: {settings.data}",
        [
            Panel(gap, "samples N", "share of trials that succeed", heatmap=heatmap),
            Panel(gap, "samples N", "threshold", lines=lines, log_x=True, log_y=True),
        ],
        "Right: N at which half of the trials succeed, by bisection; band: 95 % by resampling "
        "the successes.",
    )


def _threshold_table(settings: SampleComplexitySettings, rows: Sequence[dict[str, Any]]) -> Table:
    shown = [
        {
            **row,
            "shown": _bounded(row["threshold"], settings.scale),
            "interval": f"{_bounded(row['low'], settings.scale)} to "
            f"{_bounded(row['high'], settings.scale)}",
        }
        for row in rows
    ]
    return Table(
        f"samples-{settings.label}",
        "Samples at which half of the trials succeed",
        [
            Column("gap", "gap" if settings.data == "majority" else "2^-near - 2^-far", ".4f"),
            Column("shown", "samples"),
            Column("interval", "95 % interval"),
            Column("tried", "numbers tried"),
            Column("trials", "trainings"),
        ],
        shown,
    )


def _bounded(samples: float, scale: _Scale) -> str:
    if samples == 0:
        return f"under {scale.samples[0]}"
    return f"over {scale.samples[-1]}" if math.isinf(samples) else f"{samples:.0f}"

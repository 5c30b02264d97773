"""The number of samples that a gated SSM needs: bisection, its interval, its law in the gap."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field

from keelback.dynamics import PowerLaw, power_law_through
from keelback.dynamics.descent import train_gated
from keelback.experiments.second_paper.gated_trials import (
    GatedTrials,
    epochs_to_ranking,
    use_device,
)
from keelback.sweeps.run import Progress, RunResult

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


def threshold_row(run: GatedTrials, tried: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The threshold, and thresholds of resampled successes for its interval.

    Below the fewest samples tried the threshold is taken as 0, above the most as infinite.
    """
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


def threshold_law(rows: Sequence[dict[str, Any]]) -> PowerLaw | None:
    """Exponent of the thresholds that lie inside the range that was tried."""
    inside = inside_range(rows)
    if not inside:
        return None
    return power_law_through(
        [row["gap"] for row in inside],
        np.array([row["threshold"] for row in inside]),
        np.stack([row["resampled"] for row in inside], axis=1),
    )


def inside_range(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The thresholds that lie inside the range that was tried."""
    return [row for row in rows if 0 < row["threshold"] < math.inf]

"""Power laws fitted to trials, with bootstrap intervals and censored trials kept in.

A trial that never reached its target has the outcome `inf`: it is above every number, so medians
stay honest while fewer than half of the trials are censored, and become `inf` from there on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from jaxtyping import Float, Num
from scipy.special import ndtri

from keelback.errors import InputError

Array = np.ndarray
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A point estimate and the ends of its 95% interval; ends may be infinite.

    Examples:
        >>> interval = Interval(value=-2.0, low=-2.2, high=-1.9)
        >>> interval.low <= -2 <= interval.high
        True
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PowerLaw:
    """`outcome ~ exp(intercept) * x ** exponent`, fitted to medians on logarithmic axes.

    `points` medians entered the fit; `censored_points` were infinite and could not.

    Examples:
        >>> law = PowerLaw(Interval(-2.0, -2.1, -1.9), intercept=0.0, points=4, censored_points=0)
        >>> law.at(0.5)
        4.0
    """

    exponent: Interval
    intercept: float
    points: int
    censored_points: int

    def at(self, x: float) -> float:
        """Value of the fitted law."""
        return float(np.exp(self.intercept) * x**self.exponent.value)


def median_with_interval(
    outcomes: Num[Array, " trials"], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Median over all trials with a percentile bootstrap interval.

    Raises:
        InputError: for an empty set of trials.

    Examples:
        >>> median_with_interval(np.array([1.0, 2.0, 3.0])).value
        2.0
    """
    medians = _resampled_medians(_checked(outcomes), resamples, np.random.default_rng(seed))
    low, high = _percentiles(medians)
    return Interval(_median(np.asarray(outcomes, dtype=np.float64)), low, high)


def share_with_interval(successes: int, trials: int) -> Interval:
    """Share of successes with Wilson's interval.

    Raises:
        InputError: for an empty set of trials, or more successes than trials.

    Examples:
        >>> share = share_with_interval(successes=8, trials=10)
        >>> round(share.low, 2), round(share.high, 2)
        (0.49, 0.94)
    """
    if trials < 1:
        raise InputError("exponents: an empty set of trials has no success share")
    if not 0 <= successes <= trials:
        raise InputError(f"exponents: {successes} successes of {trials} trials are impossible")
    z = float(ndtri((1 + CONFIDENCE) / 2))
    share = successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    spread = z * sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    low = 0.0 if successes == 0 else centre - spread
    high = 1.0 if successes == trials else centre + spread
    return Interval(share, low, high)


def fit_power_law(
    x: Sequence[float],
    outcomes: Sequence[Num[Array, " trials"]],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> PowerLaw | None:
    """Fit the medians of `outcomes` against `x`; trials are resampled within each point.

    Returns:
        The law, or `None` where fewer than two medians at different `x` are finite.

    Raises:
        InputError: when an x or a median is not positive, counts differ, or a set is empty.

    Examples:
        >>> epochs = [np.array([8.0]), np.array([4.0]), np.array([2.0])]
        >>> law = fit_power_law([1.0, 2.0, 4.0], epochs)
        >>> round(law.exponent.value, 6)
        -1.0
    """
    if len(x) != len(outcomes):
        raise InputError(f"exponents: {len(x)} points have {len(outcomes)} sets of trials")
    sets = [_checked(trials) for trials in outcomes]
    rng = np.random.default_rng(seed)
    estimates = np.array([_median(trials) for trials in sets])
    resampled = np.stack([_resampled_medians(trials, resamples, rng) for trials in sets], axis=1)
    return power_law_through(x, estimates, resampled)


def power_law_through(
    x: Sequence[float],
    estimates: Float[Array, " points"],
    resampled: Float[Array, "resamples points"],
) -> PowerLaw | None:
    """Fit estimates that come with a bootstrap distribution of their own.

    Infinite estimates are left out, in every resample as well.

    Returns:
        The law, or `None` where fewer than two estimates at different `x` are finite.

    Raises:
        InputError: when an x or an estimate is not positive.

    Examples:
        >>> x = [0.1, 0.2, 0.4]
        >>> epochs = np.array([100.0, 25.0, 6.25])
        >>> law = power_law_through(x, epochs, np.tile(epochs, (20, 1)))
        >>> round(law.exponent.value, 6)
        -2.0
    """
    if any(not 0 < value < inf for value in x):
        raise InputError("exponents: a power law needs finite points above zero")
    if (estimates <= 0).any():
        raise InputError("exponents: a power law needs outcomes above zero")
    log_x = np.log(np.asarray(x, dtype=np.float64))
    fitted = _line(log_x, estimates)
    if fitted is None:
        return None
    lines = [_line(log_x, np.where(row > 0, row, inf)) for row in resampled]
    low, high = _percentiles(np.array([line[0] for line in lines if line is not None]))
    finite = int(np.isfinite(estimates).sum())
    return PowerLaw(Interval(fitted[0], low, high), fitted[1], finite, len(estimates) - finite)


def _checked(outcomes: Num[Array, " trials"]) -> Float[Array, " trials"]:
    trials = np.asarray(outcomes, dtype=np.float64)
    if trials.size == 0:
        raise InputError("exponents: a set of trials is empty")
    if np.isnan(trials).any():
        raise InputError("exponents: an outcome is not a number; a censored trial is inf")
    return trials


def _median(trials: Array) -> float:
    """The middle trial, the upper one of two: infinite as soon as half are censored."""
    return float(np.sort(trials)[len(trials) // 2])


def _resampled_medians(trials: Array, resamples: int, rng: np.random.Generator) -> Array:
    picks = rng.integers(len(trials), size=(resamples, len(trials)))
    return np.sort(trials[picks], axis=1)[:, len(trials) // 2]


def _percentiles(values: Array) -> tuple[float, float]:
    ordered = np.sort(values)
    last = len(ordered) - 1
    low = int(np.floor((1 - CONFIDENCE) / 2 * last))
    high = int(np.ceil((1 + CONFIDENCE) / 2 * last))
    return float(ordered[low]), float(ordered[high])


def _line(log_x: Array, medians: Array) -> tuple[float, float] | None:
    finite = np.isfinite(medians)
    if finite.sum() < 2 or np.ptp(log_x[finite]) == 0:
        return None
    slope, intercept = np.polyfit(log_x[finite], np.log(medians[finite]), 1)
    return float(slope), float(intercept)

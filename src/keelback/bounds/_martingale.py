"""Losses along one sequence: bounds on the mean of their conditional expectations.

Y_1, ..., Y_n are losses in [0, width], each decided by the sequence up to its token, and mu_t is
the expectation of Y_t given what came before. Both bounds come from a supermartingale with one free
parameter, the rate, so with the stated probability they hold at every length n at once, and at
whichever length one chooses to stop.
"""

from collections.abc import Iterable

from keelback.bounds._numbers import Real, log1p
from keelback.errors import InputError

RATES = tuple(quarters / 2.0**power for power in range(3, 19) for quarters in (7, 6, 5, 4))
"""Candidates for the rate, 7/8 down to 2^-16 by steps of about a fifth; a union over them is paid
for with their number."""


def check_rate(rate: float) -> None:
    """Raise an InputError unless the rate lies strictly between 0 and 1."""
    if not 0 < rate < 1:
        raise InputError(f"rate = {rate:g} must lie strictly between 0 and 1")


def azuma_excess(confidence: Real, tokens: Real, width: Real, rate: Real) -> Real:
    """width (confidence / rate + rate n / 8) / n, by which mean mu may exceed mean Y.

    With probability at least 1 - e^-confidence, for all n at once. The best rate is
    sqrt(8 confidence / n), which gives width sqrt(confidence / (2 n)).

    Args:
        confidence: log(1 / failure probability).
        tokens: n.
        width: upper bound on a loss.
        rate: the parameter of the supermartingale.

    Source: Azuma, Tohoku 1967; Howard et al., Probability Surveys 2020;
    docs/studies/bounds.md, Theorem 12.

    Examples:
        >>> round(float(azuma_excess(confidence=3.0, tokens=1000, width=8.0, rate=0.15)), 3)
        0.31
    """
    return width * (confidence / rate + rate * tokens / 8) / tokens


def freedman_excess(confidence: Real, tokens: Real, width: Real, rate: Real, squares: Real) -> Real:
    """width (psi(rate) V + confidence) / (rate n), by which mean mu may exceed mean Y.

    psi(r) = -log(1 - r) - r and V is the sum of the squares of (Y_t - forecast_t) / width, where a
    forecast is any number in [0, width] that is decided before token t: the variance adapts. With
    probability at least 1 - e^-confidence, for all n at once.

    Args:
        confidence: log(1 / failure probability).
        tokens: n.
        width: upper bound on a loss.
        rate: the parameter of the supermartingale, below 1.
        squares: the sum of the squares of Y_t - forecast_t.

    Source: Fan, Grama and Liu, EJP 2015, Lemma 4.1; Freedman, Annals of Probability 1975, for the
    form; Finzi et al., arXiv 2504.15208, for its use; docs/studies/bounds.md, Theorem 12.

    Examples:
        >>> round(freedman_excess(3.0, tokens=1000, width=1, rate=0.1, squares=250), 4)
        0.0434
    """
    psi = -log1p(-rate) - rate
    return width * (psi * squares / width**2 + confidence) / (rate * tokens)


def betting_mean(
    confidence: Real,
    tokens: Real,
    width: Real,
    rate: Real,
    mean_forecast: Real,
    log_wealth: Real,
) -> Real:
    """mean forecast + width (confidence - log_wealth) / (rate n): what mean mu is at most.

    log_wealth is the sum of log(1 + rate (forecast_t - Y_t) / width). With probability at least
    1 - e^-confidence, for all n at once. Never above what `freedman_excess` gives: that one bounds
    each logarithm from below by rate xi - psi(rate) xi^2.

    Args:
        confidence: log(1 / failure probability).
        tokens: n.
        width: upper bound on a loss.
        rate: the stake, in (0, 1).
        mean_forecast: the mean of the forecasts, each in [0, width] and decided before its token.
        log_wealth: the sum above.

    Source: Waudby-Smith and Ramdas, JRSS B 2024, for betting; docs/studies/bounds.md, Theorem 12.

    Examples:
        >>> mean = betting_mean(
        ...     3.0, tokens=1000, width=1, rate=0.1, mean_forecast=0.5, log_wealth=0.0)
        >>> round(mean, 3)  # 0.5 + 3 / (0.1 * 1000)
        0.53
    """
    return mean_forecast + width * (confidence - log_wealth) / (rate * tokens)


def best_rate(confidence: float, tokens: int, width: float, squares: float | None = None) -> float:
    """The candidate rate with the smallest excess; Azuma's without `squares`, else Freedman's.

    Examples:
        >>> round(best_rate(confidence=3.0, tokens=1000, width=8.0), 4)
        0.1562
    """

    def excess(rate: float) -> float:
        if squares is None:
            return float(azuma_excess(confidence, tokens, width, rate))
        return float(freedman_excess(confidence, tokens, width, rate, squares))

    return min(_floats(RATES), key=excess)


def _floats(numbers: Iterable[float]) -> list[float]:
    return [float(number) for number in numbers]

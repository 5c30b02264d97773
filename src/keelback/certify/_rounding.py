"""Confidence bounds as certificates print them: outward where python-flint is installed."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal

from keelback import bounds
from keelback.bounds import has_flint, outward


def rounding() -> Literal["none", "outward"]:
    """`outward` where no printed bound is below the exact one; else `none`, about ten digits."""
    return "outward" if has_flint() else "none"


def clopper_pearson(errors: int, examples: int, delta: Fraction) -> float:
    """`keelback.bounds.clopper_pearson`."""
    return _evaluated(bounds.clopper_pearson, outward.clopper_pearson)(errors, examples, delta)


def monte_carlo_bound(values: Sequence[Fraction], delta: Fraction) -> float:
    """`keelback.bounds.monte_carlo_bound`."""
    if has_flint():
        return outward.monte_carlo_bound(values, delta)
    return bounds.monte_carlo_bound([float(value) for value in values], float(delta))


def pac_bayes_bound(sample_error: float, kl: float, examples: int, delta: Fraction) -> float:
    """`keelback.bounds.pac_bayes_bound`."""
    found = _evaluated(bounds.pac_bayes_bound, outward.pac_bayes_bound)
    return found(sample_error, kl, examples, delta)


def test_set_bound(mean: float, examples: int, delta: Fraction) -> float:
    """`keelback.bounds.test_set_bound`."""
    return _evaluated(bounds.test_set_bound, outward.test_set_bound)(mean, examples, delta)


def _evaluated(approximate: Callable[..., float], exact: Callable[..., float]) -> Any:
    """The outward function, or the approximate one with its last argument, delta, as a double."""
    if has_flint():
        return exact
    return lambda *arguments: approximate(*arguments[:-1], float(arguments[-1]))

"""Functions of real numbers that a formula needs, for doubles and for balls alike.

A *ball* is a number of python-flint's `arb`: a midpoint and a radius that hold the true value. A
formula written with these functions gives a double for doubles and an enclosure for balls, as long
as every number in it that is not a small integer comes from its arguments.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from keelback.extras import missing_of, require_extra

Real = Any
"""A double, or a ball (`flint.arb`)."""

_ACCURACY = 64
_PRECISIONS = (128, 256, 512, 1024, 2048, 4096, 8192)


def is_ball(x: Real) -> bool:
    """Whether `x` is a ball and not a number of Python."""
    return not isinstance(x, float | int)


def log(x: Real) -> Real:
    """Natural logarithm, with log 0 = -inf."""
    if is_ball(x):
        return type(x)("-inf") if x == 0 else x.log()
    return math.log(x) if x > 0 else -math.inf


def log_of(number: int, like: Real) -> Real:
    """Natural logarithm of a whole number, as a ball if `like` is one."""
    return log(type(like)(number)) if is_ball(like) else math.log(number)


def like(number: float, other: Real) -> Real:
    """Exactly `number`, as a ball if `other` is one."""
    return type(other)(number) if is_ball(other) else number


def exp(x: Real) -> Real:
    """e^x."""
    return x.exp() if is_ball(x) else math.exp(x)


def expm1(x: Real) -> Real:
    """e^x - 1."""
    if not is_ball(x):
        return math.expm1(x)
    if abs(x) < 2.0**-200:  # where arb's own function loses all but 28 bits once x is below 2^-2^60
        rest = x**3
        return x + x**2 / 2 + rest.union(-rest)
    return x.expm1()


def log1p(x: Real) -> Real:
    """log(1 + x)."""
    return x.log1p() if is_ball(x) else math.log1p(x)


def sqrt(x: Real) -> Real:
    """Square root."""
    return x.sqrt() if is_ball(x) else math.sqrt(x)


def maximum(x: Real, y: Real) -> Real:
    """The larger of two."""
    if is_ball(x) or is_ball(y):
        return y.max(x) if is_ball(y) else x.max(type(x)(y))
    return max(x, y)


def minimum(x: Real, y: Real) -> Real:
    """The smaller of two."""
    return -maximum(-x, -y)


def logaddexp(x: Real, y: Real) -> Real:
    """log(e^x + e^y), either of which may be 0 (a logarithm of -inf)."""
    if x == -math.inf:
        return y
    if y == -math.inf:
        return x
    larger = maximum(x, y)
    return larger + log1p(exp(minimum(x, y) - larger))


def total(numbers: Iterable[Real]) -> Real:
    """The sum of numbers, at least one."""
    first, *rest = numbers
    for number in rest:
        first = first + number
    return first


def ball(x: float | int) -> Real:
    """The ball that holds exactly `x`.

    Raises:
        InputError: python-flint is not installed.
    """
    return flint().arb(x)


def enclosed(formula: Callable[[], Real]) -> Real:
    """The value of a formula of balls, at a precision that leaves a relative error below 2^-64.

    Balls that the formula takes in must be exact: it is evaluated anew at each precision.
    """
    return enclosed_each(lambda: {"": formula()})[""]


def enclosed_each(formulas: Callable[[], Mapping[str, Real]]) -> dict[str, Real]:
    """The values of several formulas that are evaluated together, each as `enclosed` gives it."""
    context = flint().ctx
    kept: dict[str, Real] = {}
    found: Mapping[str, Real] = {}
    for precision in _PRECISIONS:
        with context.workprec(precision):
            found = {name: _as_ball(value) for name, value in formulas().items()}
            for name, value in found.items():
                if name not in kept and _is_accurate(value):
                    kept[name] = value
        if len(kept) == len(found):
            break
    return {name: kept.get(name, value) for name, value in found.items()}


def _as_ball(x: Real) -> Real:
    return x if is_ball(x) else ball(x)


def _is_accurate(x: Real) -> bool:
    if x.is_finite():
        return bool(x.rel_accuracy_bits() >= _ACCURACY)
    return bool(x == -math.inf or x == math.inf)


def upper_end(x: Real) -> float:
    """The smallest double that is not below any number of the ball."""
    if x.is_nan():
        return math.inf
    end = x.upper()
    nearest = float(end)
    return nearest if type(x)(nearest) >= end else math.nextafter(nearest, math.inf)


def lower_end(x: Real) -> float:
    """The largest double that is not above any number of the ball."""
    if x.is_nan():
        return -math.inf
    end = x.lower()
    nearest = float(end)
    return nearest if type(x)(nearest) <= end else math.nextafter(nearest, -math.inf)


def has_flint() -> bool:
    """Whether python-flint is installed.

    Examples:
        >>> from importlib.util import find_spec
        >>> has_flint() == (find_spec("flint") is not None)
        True
    """
    return not missing_of("certify")


def flint() -> Any:
    """The module python-flint.

    Raises:
        InputError: it is not installed.
    """
    try:
        import flint as module
    except ImportError:
        require_extra("certify", "rounding outward")
        raise  # It is there and broken.
    return module

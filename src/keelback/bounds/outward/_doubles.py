"""From balls to doubles: comparisons that are certain, the smallest double that satisfies one."""

import math
import struct
from collections.abc import Callable
from fractions import Fraction

from keelback.bounds._numbers import Real, ball, flint, upper_end

_PRECISIONS = (128, 256, 512, 1024, 2048)


def exact(x: float | int | Fraction) -> Real:
    """The ball of a double, a whole number (both exact) or a fraction (at working precision)."""
    if isinstance(x, Fraction):
        return flint().arb(flint().fmpq(x.numerator, x.denominator))
    return ball(x)


def times(x: float, y: float) -> float:
    """The product of two doubles, rounded up."""
    with flint().ctx.workprec(_PRECISIONS[0]):
        return upper_end(exact(x) * exact(y))


def certainly(claim: Callable[[], Real]) -> bool:
    """Whether a number that is given as a ball is >= 0, for certain.

    The formula is evaluated at growing precision until its sign is known; where it never is, the
    answer is no.
    """
    for precision in _PRECISIONS:
        with flint().ctx.workprec(precision):
            difference = claim()
            if difference >= 0:
                return True
            if difference < 0:
                return False
    return False


def smallest_double(holds: Callable[[float], bool], guess: float, low: float, high: float) -> float:
    """The smallest double in [low, high] from which on `holds` is true; `high` is taken to hold.

    Args:
        holds: false up to some number and true from there on.
        guess: where that number may be; a good one saves evaluations.
        low: where the search begins, non-negative.
        high: where it ends.
    """
    first, last = _index(low), _index(high)
    at = min(max(_index(guess if guess >= 0 else low), first), last)
    if at == last or holds(_double(at)):
        above, below, step = at, at, 1
        while below > first:
            below = max(first, below - step)
            if not holds(_double(below)):
                break
            above, step = below, 2 * step
        else:
            return _double(above)
    else:
        below, above, step = at, at, 1
        while above < last:
            above = min(last, above + step)
            if above == last or holds(_double(above)):
                break
            below, step = above, 2 * step
    while above - below > 1:
        middle = (above + below) // 2
        above, below = (middle, below) if holds(_double(middle)) else (above, middle)
    return _double(above)


def _index(x: float) -> int:
    """The number of a non-negative double in their order."""
    assert x >= 0
    return int(struct.unpack("<q", struct.pack("<d", math.fabs(x)))[0])


def _double(index: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", index))[0])

"""Random sets of constants for the tests of rounding, from the ordinary to the extreme."""

import math
import random
from collections.abc import Iterator

import mpmath
from mpmath import mpf

from keelback.bounds import ClassConstants

SETS = 10_000


def log_uniform(draw: random.Random, low: float, high: float) -> float:
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def random_class(draw: random.Random) -> ClassConstants:
    """From the ordinary to the extreme: norms to 1e30, lengths and samples to 1e15, s_A near 0."""
    wide = draw.choice([1.5, 20.0, 1e6, 1e30])

    def norm() -> float:
        return (
            draw.choice([1.0, 0.0]) if draw.random() < 0.02 else log_uniform(draw, 1 / wide, wide)
        )

    pairs = {}
    for euclidean, absolute in (("B_B", "M_B"), ("B_C", "M_C"), ("B_q", "M_q"), ("B_w", "M_w")):
        pairs[euclidean] = norm()
        pairs[absolute] = pairs[euclidean] * draw.choice([1.0, log_uniform(draw, 1, 50)])
    s_A = draw.choice([0.0, draw.uniform(-3, 0.5), -1e-15, 1e-15, -log_uniform(draw, 1e-18, 1e3)])
    B_A = max(-s_A, 0.0) + draw.choice([0.0, norm()])
    p_lo = draw.choice([0.0, draw.uniform(-60, 30)])
    return ClassConstants(
        B_u=norm(), s_A=s_A, B_A=B_A, **pairs, p_lo=p_lo,
        p_hi=p_lo + draw.choice([0.0, draw.uniform(0, 4)]),
        T=draw.choice([1, 2, draw.randint(1, 400), int(log_uniform(draw, 1, 1e15))]),
        m=draw.choice([1, draw.randint(1, 999), int(log_uniform(draw, 1, 1e5))]),
        d=draw.randint(1, 10**4), N=draw.randint(1, 64),
    )  # fmt: skip


def random_classes(count: int) -> Iterator[ClassConstants]:
    draw = random.Random(0)
    return (random_class(draw) for _ in range(count))


def is_close_above(found: float, value: mpf) -> bool:
    """Not below, and no more than a few units in the last place above."""
    if value == -mpmath.inf:
        return found == -math.inf
    return found >= value and found - value <= 8 * math.ulp(max(abs(found), 1.0))

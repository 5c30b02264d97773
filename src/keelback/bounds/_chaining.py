"""From covering numbers to Rademacher complexity: Dudley's integral and chaining on nested nets."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from keelback.bounds._covering import Block, class_log_count
from keelback.bounds._numbers import Real, log, log1p, log_of, maximum

LogCount = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_SMALLEST_LOG_RADIUS = math.log(1e-8)
_RADII = 155


@dataclass(frozen=True)
class CoveredClass:
    """A class by what covers of it need.

    Attributes:
        log_bound: logarithm of a bound on the functions, -inf if there is only the zero function.
        blocks: its parameters, each reach in units of the bound.

    Examples:
        >>> parameters = CoveredClass(log_bound=0.0, blocks=[Ball(coordinates=8, log_reach=0.0)])
        >>> parameters.log_rademacher(m=10_000) < 0  # less than the bound on the functions
        True
    """

    log_bound: Real
    blocks: Sequence[Block]

    def log_rademacher(self, m: int) -> float:
        """Logarithm of the bound on the empirical Rademacher complexity by nested nets."""
        if self.log_bound == -math.inf:
            return -math.inf
        relative = nested_chaining(lambda radii: class_log_count(self.blocks, radii), m)
        return self.log_bound + math.log(relative)


def chaining_radii() -> Float[np.ndarray, " radii"]:
    """Logarithms of the relative radii that chaining chooses from, from 1 down to 1e-8.

    Examples:
        >>> float(chaining_radii().max())
        0.0
    """
    return np.linspace(0.0, _SMALLEST_LOG_RADIUS, _RADII)


def nested_chaining(log_count: LogCount, m: int) -> float:
    """Empirical Rademacher complexity of a class of functions bounded by 1, by nested nets.

    For any radii 1 = e_0 > e_1 > ... > e_n,

        Rad <= e_n + sum_{j >= 1} e_{j-1} sqrt(2 log N(e_j) / m).

    The net of radius e_j lies in the class, and a point of the net j is sent to its nearest point
    of the net j - 1. So level j needs only N(e_j) differences, each of length at most e_{j-1}
    (Massart's lemma, level by level). One level is Massart's bound for a single net; halving radii
    give Dudley's integral with 4 sqrt(2) in place of 12. The radii are chosen by dynamic
    programming on a fixed grid, and every choice is a valid bound.

    Args:
        log_count: log covering numbers at log radii relative to the bound on the functions;
            the centres must lie in the class.
        m: number of samples.

    Returns:
        A bound in (0, 1], relative to the bound on the functions.

    Source: Massart's lemma (Shalev-Shwartz and Ben-David, Lemma 26.8); Dudley, 1967.

    Examples:
        >>> count = lambda log_e: volume_log_count(-log_e, coordinates=3)
        >>> nested_chaining(count, m=100_000) < nested_chaining(count, m=1000) < 1
        True
    """
    return best_chain(log_count, m)[0]


def best_chain(log_count: LogCount, m: int) -> tuple[float, list[float]]:
    """The value of `nested_chaining`, and the log radii that attain it, coarsest first.

    Examples:
        >>> value, log_radii = best_chain(lambda log_e: volume_log_count(-log_e, 3), m=10_000)
        >>> value < 1, log_radii == sorted(log_radii, reverse=True)
        (True, True)
    """
    log_radii = chaining_radii()
    radii = np.exp(log_radii)
    deviations = np.sqrt(2 * np.maximum(log_count(log_radii), 0.0) / m)
    reached = np.zeros(len(radii))
    before = np.zeros(len(radii), dtype=int)
    for level in range(1, len(radii)):
        sums = reached[:level] + radii[:level] * deviations[level]
        before[level] = np.argmin(sums)
        reached[level] = sums[before[level]]
    level = int(np.argmin(reached + radii))
    value, chain = float(reached[level] + radii[level]), [level]
    while chain[-1] > 0:
        chain.append(int(before[chain[-1]]))
    return value, [float(log_radii[level]) for level in reversed(chain)]


def dudley_integral(log_count: LogCount, m: int) -> float:
    """Truncated entropy integral for a class of functions bounded by 1.

    Rad <= inf_{0 < a < 1} 4 a + (12 / sqrt(m)) int_a^1 sqrt(log N(e)) de.

    The integral is taken from above: log N falls with e, so each step uses its left end.

    Args:
        log_count: log covering numbers at log radii relative to the bound on the functions.
        m: number of samples.

    Source: Srebro, Sridharan and Tewari, NeurIPS 2010, Lemma A.3; Bartlett, Foster and
    Telgarsky, NeurIPS 2017, Lemma A.5.

    Examples:
        >>> count = lambda log_e: volume_log_count(-log_e, coordinates=3)
        >>> nested_chaining(count, m=10_000) < dudley_integral(count, m=10_000) < 1
        True
    """
    log_radii = chaining_radii()
    radii = np.exp(log_radii)
    roots = np.sqrt(np.maximum(log_count(log_radii), 0.0))
    steps = (radii[:-1] - radii[1:]) * roots[1:]
    integrals = np.concatenate([[0.0], np.cumsum(steps)])
    return float(np.min(4 * radii + 12 / math.sqrt(m) * integrals))


def log_dudley_of_capacity(log_capacity: Real, log_bound: Real, m: Real) -> Real:
    """Logarithm of Dudley's bound for log N(e) <= C^2 / e^2 and functions bounded by b.

    (12 C / sqrt(m)) (1 + max(0, log(b sqrt(m) / (3 C)))): the minimiser is a = 3 C / sqrt(m);
    where that exceeds b, the expression is at least 4 b and therefore still a bound.

    Args:
        log_capacity: log C.
        log_bound: log b.
        m: number of samples.

    Examples:
        >>> import math
        >>> round(math.exp(log_dudley_of_capacity(log_capacity=0.0, log_bound=0.0, m=10_000)), 3)
        0.541
    """
    log_scale = log_capacity - log(m) / 2
    headroom = maximum(0 * log_scale, log_bound - log_of(3, log_scale) - log_scale)
    return log_of(12, log_scale) + log_scale + log1p(headroom)

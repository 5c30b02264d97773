"""Covering numbers of parameter sets, and of a class whose output moves with its parameters.

A *block* is one parameter (a vector, a matrix, a set of intervals). Its `log_reach` is the
logarithm of L R: how far the output can move while the parameter crosses the radius R of its
set, L being the output's Lipschitz constant in the norm of that radius. Covering the block with
balls of radius e / L changes the output by at most e; one block after the other, the changes
add up, so a split of a radius among the blocks turns covers of the blocks into a cover of the
class. Every cover used here has its centres inside the set, so each replacement stays in the class.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from keelback.bounds._numbers import Real, exp, like, log, log_of, logaddexp
from keelback.errors import InputError

Numbers = float | Float[np.ndarray, "..."]

_BISECTIONS = 45


def maurey_log_count(log_ratio: Numbers, coordinates: int) -> NDArray[np.float64]:
    """Log covering number of an l1 ball of radius M by Euclidean balls of radius e (Maurey).

    log N <= (M/e)^2 log(2 k + 1), and N = 1 once e >= M. No ceiling is needed: an average of n
    signed vertices, shrunk by sqrt(n) / (1 + sqrt(n)), lies within M / (1 + sqrt(n)) of the
    target (docs/studies/bounds.md). Centres can be taken inside any convex subset of the ball,
    because Euclidean projection brings no two points further apart.

    Args:
        log_ratio: log(M / e), any shape.
        coordinates: k, the dimension.

    Source: arXiv 2502.01473, Lemma on l1 balls; Zhang, JMLR 2002, Theorem 3.

    Examples:
        >>> import math
        >>> float(maurey_log_count(math.log(2.0), coordinates=3)) > 0
        True
    """
    with np.errstate(over="ignore"):
        count = np.exp(2 * np.asarray(log_ratio)) * math.log(2 * coordinates + 1)
    return np.asarray(np.where(np.asarray(log_ratio) > 0, count, 0.0))


def volume_log_count(log_ratio: Numbers, coordinates: int) -> NDArray[np.float64]:
    """Log covering number of a ball of any norm by balls of the same norm, by volume.

    log N <= k log(1 + 2 R / e), and N = 1 once e >= R. The centres, a maximal e-separated set, lie
    in the covered set; the bound also holds for every subset of the ball.

    Args:
        log_ratio: log(R / e), any shape.
        coordinates: k, the dimension.

    Source: Vershynin, High-Dimensional Probability, Corollary 4.2.13.

    Examples:
        >>> import math
        >>> round(float(volume_log_count(math.log(2.0), coordinates=3)), 3)  # R / e = 2
        4.828
    """
    count = coordinates * np.logaddexp(0.0, math.log(2) + log_ratio)
    return np.asarray(np.where(np.asarray(log_ratio) > 0, count, 0.0))


def interval_log_count(log_ratio: Numbers, coordinates: int = 1) -> NDArray[np.float64]:
    """Log covering number of k intervals of half-length R by points within e: exact.

    log N = k log(ceil(R / e)); the maximum norm over the k coordinates.

    Args:
        log_ratio: log(R / e), any shape.
        coordinates: k, the number of intervals.

    Examples:
        >>> import math
        >>> round(float(interval_log_count(math.log(3.0), coordinates=2)), 4)
        2.1972
    """
    small = np.minimum(log_ratio, 30.0)
    rounded = np.log(np.maximum(np.ceil(np.exp(small) * (1 - 1e-15)), 1.0))
    return np.asarray(
        coordinates * np.where(np.asarray(log_ratio) > 30, log_ratio + 1e-13, rounded)
    )


def cheapest_log_count(
    log_ratio: Numbers, coordinates: int, log_absolute_ratio: Numbers | None = None
) -> NDArray[np.float64]:
    """The cheaper of the volumetric and the Maurey cover at each radius.

    Args:
        log_ratio: log(R / e) with R the radius in the norm of the cover.
        coordinates: k, the dimension.
        log_absolute_ratio: log(M / e) with M the l1 radius; without it only volume is available.

    Examples:
        >>> bool(cheapest_log_count(1.0, 3) <= volume_log_count(1.0, 3))
        True
    """
    count = volume_log_count(log_ratio, coordinates)
    if log_absolute_ratio is None:
        return count
    return np.asarray(np.minimum(count, maurey_log_count(log_absolute_ratio, coordinates)))


@dataclass(frozen=True)
class Ball:
    """A block that is a norm ball: a vector or a matrix.

    Attributes:
        coordinates: k, the number of free entries.
        log_reach: log(L R), R the radius in the norm in which L is the Lipschitz constant.
        log_absolute_reach: log(L M), M the l1 radius, or None where no l1 radius is known.
        copies: number of such balls covered independently in the maximum over them.

    Examples:
        >>> block = Ball(coordinates=8, log_reach=0.0)
        >>> [round(float(count), 2) for count in class_log_count([block], np.log([1.0, 0.1]))]
        [8.79, 24.36]
    """

    coordinates: int
    log_reach: Real
    log_absolute_reach: Real | None = None
    copies: int = 1


@dataclass(frozen=True)
class Intervals:
    """A block of k scalars, each in an interval of half-length R; `log_reach` = log(L R).

    Examples:
        >>> intervals = Intervals(coordinates=3, log_reach=0.0)
        >>> intervals.coordinates
        3
    """

    coordinates: int
    log_reach: Real


Block = Ball | Intervals


CoverName = Literal["volume", "maurey", "interval"]


@dataclass(frozen=True)
class _Power:
    """Smooth upper envelope e -> (A / e)^2 of a block's log covering number (Maurey)."""

    log_amplitude: float
    log_coarsest: float
    """Volume is the cheaper cover at every log radius below this one."""
    name: CoverName = "maurey"


@dataclass(frozen=True)
class _Logarithm:
    """Smooth upper envelope e -> k log(1 + c / e) of a block's log covering number."""

    coordinates: int
    log_length: float
    name: CoverName = "volume"


_Envelope = _Power | _Logarithm


def scaled(block: Block, log_factor: Real) -> Block:
    """The block with every reach times e^log_factor."""
    reach = block.log_reach + log_factor
    if isinstance(block, Intervals):
        return replace(block, log_reach=reach)
    absolute = block.log_absolute_reach
    return replace(
        block,
        log_reach=reach,
        log_absolute_reach=None if absolute is None else absolute + log_factor,
    )


@dataclass(frozen=True)
class BlockCover:
    """How one block of a class is covered: by which cover, at which log radius."""

    block: int
    cover: CoverName
    log_radius: float


def class_log_count(
    blocks: Sequence[Block], log_radii: Float[np.ndarray, " radii"]
) -> Float[np.ndarray, " radii"]:
    """Log covering number of a class in the uniform distance of outputs, at each radius.

    At every radius the optimal split among the blocks is found for each choice of covers
    (Maurey or volume, block by block) and the best choice is taken. For fixed covers the problem
    is convex, so the split is where all slopes agree.

    Args:
        blocks: the parameters of the class; a block with nothing to cover has `log_reach` -inf.
        log_radii: logarithms of the radii, in the unit of the blocks' `log_reach`.

    Examples:
        >>> blocks = [Ball(coordinates=8, log_reach=0.0)]
        >>> class_log_count(blocks, np.log([1.0, 0.1])).shape
        (2,)
    """
    best = np.full(log_radii.shape, np.inf)
    for choice, useful in _choices(blocks, log_radii):
        counts, _ = _split(choice, log_radii[useful])
        best[useful] = np.minimum(best[useful], counts)
    return best


def best_cover(blocks: Sequence[Block], log_radius: float) -> list[BlockCover]:
    """The covers behind `class_log_count` at one radius; their radii sum to it, up to rounding.

    Every choice is a cover. `cover_log_count` says what it costs, with rounding accounted for.

    Args:
        blocks: the parameters of the class, in doubles.
        log_radius: logarithm of the radius.
    """
    at = np.array([log_radius])
    best, least = None, math.inf
    for choice, useful in _choices(blocks, at):
        if not useful.all():
            continue
        counts, log_shares = _split(choice, at)
        if best is None or counts[0] < least:
            best, least = (choice, log_shares[:, 0]), counts[0]
    assert best is not None, "the volume covers serve at every radius"
    choice, log_shares = best
    return [
        BlockCover(index, envelope.name, float(log_share))
        for (index, envelope), log_share in zip(choice, log_shares, strict=True)
    ]


def cover_log_count(
    blocks: Sequence[Block], covers: Sequence[BlockCover], log_radius: Real
) -> Real:
    """Log covering number of a class at a radius, for a given choice of covers, in balls.

    The radii of the covers are scaled to sum to the radius exactly.

    Args:
        blocks: the parameters of the class, in balls.
        covers: one for each block that has something to cover, as `best_cover` gives them.
        log_radius: logarithm of the radius, a ball.
    """
    log_count = 0 * log_radius
    log_shares = [like(cover.log_radius, log_radius) for cover in covers]
    if not log_shares:
        return log_count
    log_scale = log_radius - reduce(logaddexp, log_shares)
    for cover, log_share in zip(covers, log_shares, strict=True):
        block, log_own = blocks[cover.block], log_share + log_scale
        if isinstance(block, Intervals):
            ratio = block.log_reach - log_own
            log_count += block.coordinates * logaddexp(0 * ratio, ratio)
        elif cover.cover == "maurey":
            assert block.log_absolute_reach is not None
            vertices = log_of(2 * block.coordinates + 1, log_radius)
            log_count += block.copies * exp(2 * (block.log_absolute_reach - log_own)) * vertices
        else:
            ratio = log_of(2, log_radius) + block.log_reach - log_own
            log_count += block.copies * block.coordinates * logaddexp(0 * ratio, ratio)
    return log_count


_Choice = tuple[tuple[int, "_Envelope"], ...]


def _choices(
    blocks: Sequence[Block], log_radii: Float[np.ndarray, " radii"]
) -> Iterator[tuple[_Choice, NDArray[np.bool_]]]:
    """Each choice of covers, block by block, and the radii at which it can be the cheapest."""
    options = [
        [(index, envelope) for envelope in _envelopes(block)]
        for index, block in enumerate(blocks)
        if block.log_reach > -math.inf
    ]
    for choice in itertools.product(*options):
        powers = [own for _, own in choice if isinstance(own, _Power)]
        coarsest = max((power.log_coarsest for power in powers), default=-math.inf)
        useful = log_radii > coarsest
        if useful.any():
            yield choice, useful


def _envelopes(block: Block) -> list[_Envelope]:
    if isinstance(block, Intervals):
        return [_Logarithm(block.coordinates, block.log_reach, "interval")]
    volume = _Logarithm(block.coordinates * block.copies, math.log(2) + block.log_reach)
    if block.log_absolute_reach is None:
        return [volume]
    log_vertices = math.log(block.copies * math.log(2 * block.coordinates + 1))
    log_amplitude = block.log_absolute_reach + log_vertices / 2
    return [volume, _Power(log_amplitude, _crossing(log_amplitude, volume))]


def _crossing(log_amplitude: float, volume: _Logarithm) -> float:
    """The log radius below which volume is cheaper; e^2 times its count increases with e."""

    def excess(log_radius: float) -> float:
        count = volume.coordinates * float(np.logaddexp(0.0, volume.log_length - log_radius))
        return 2 * (log_radius - log_amplitude) + log(count)

    low, high = log_amplitude - 50, log_amplitude + 50
    if excess(low) > 0:
        return -math.inf
    if excess(high) < 0:
        return math.inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return high


def _split(
    choice: _Choice, log_radii: Float[np.ndarray, " radii"]
) -> tuple[Float[np.ndarray, " radii"], Float[np.ndarray, "blocks radii"]]:
    """Least total log count with the blocks' radii summing to at most each radius, and the split.

    The split is in the order of the choice.
    """
    if not choice:
        return np.zeros(log_radii.shape), np.zeros((0, *log_radii.shape))
    order = sorted(range(len(choice)), key=lambda i: isinstance(choice[i][1], _Logarithm))
    powers = [own for _, own in choice if isinstance(own, _Power)]
    logarithms = [own for _, own in choice if isinstance(own, _Logarithm)]
    counts, split = _split_count(powers, logarithms, log_radii)
    return counts, split[np.argsort(order)]


def _split_count(
    powers: Sequence[_Power],
    logarithms: Sequence[_Logarithm],
    log_radii: Float[np.ndarray, " radii"],
) -> tuple[Float[np.ndarray, " radii"], Float[np.ndarray, "blocks radii"]]:
    amplitude = np.array([power.log_amplitude for power in powers])[:, None]
    k = np.array([logarithm.coordinates for logarithm in logarithms])[:, None]
    length = np.array([logarithm.log_length for logarithm in logarithms])[:, None]

    def log_slopes(log_radius: NDArray[np.float64]) -> NDArray[np.float64]:
        power = math.log(2) + 2 * amplitude - 3 * log_radius
        logarithm = np.log(k) + length - log_radius - np.logaddexp(log_radius, length)
        return np.concatenate([power, logarithm])

    def log_radii_at(log_slope: NDArray[np.float64]) -> NDArray[np.float64]:
        power = (math.log(2) + 2 * amplitude - log_slope) / 3
        log_product = np.log(k) + length - log_slope
        root = np.logaddexp(2 * length, math.log(4) + log_product) / 2
        logarithm = math.log(2) + log_product - np.logaddexp(length, root)
        return np.concatenate([power, logarithm])

    low = log_slopes(log_radii).max(axis=0)
    high = log_slopes(log_radii - math.log(len(powers) + len(logarithms))).max(axis=0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        too_wide = np.logaddexp.reduce(log_radii_at(middle)) > log_radii
        low, high = np.where(too_wide, middle, low), np.where(too_wide, high, middle)
    split = log_radii_at(high)
    split += np.minimum(log_radii - np.logaddexp.reduce(split), 0.0)
    with np.errstate(over="ignore"):
        by_power = np.exp(2 * (amplitude - split[: len(powers)])).sum(axis=0)
    by_logarithm = (k * np.logaddexp(0.0, length - split[len(powers) :])).sum(axis=0)
    return by_power + by_logarithm, split


def log_maurey_capacity(log_reaches: Sequence[Real], coordinates: Sequence[int]) -> Real:
    """Logarithm of C with log N(F, e) <= C^2 / e^2 when every block is covered by Maurey.

    C = (sum_i (L_i M_i sqrt(log(2 k_i + 1)))^{2/3})^{3/2}, the value at the optimal split
    e_i proportional to (L_i M_i sqrt(log(2 k_i + 1)))^{2/3}.

    Args:
        log_reaches: log(L_i M_i) of each block.
        coordinates: k_i of each block.

    Raises:
        InputError: the two differ in length, or there is no block.

    Source: arXiv 2502.01473, Theorem 3.3.

    Examples:
        >>> import math
        >>> round(math.exp(log_maurey_capacity([0.0], [3])), 4) == round(math.sqrt(math.log(7)), 4)
        True
    """
    if len(log_reaches) != len(coordinates) or not log_reaches:
        raise InputError("log_reaches and coordinates must be equally long and not empty")
    logs = [
        reach + log(log_of(2 * k + 1, reach)) / 2
        for reach, k in zip(log_reaches, coordinates, strict=True)
    ]
    return 3 * reduce(logaddexp, [2 * own / 3 for own in logs]) / 2

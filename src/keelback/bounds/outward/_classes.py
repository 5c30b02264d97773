"""Bounds of whole classes, rounded outward.

Choices (radii, splits of a radius among parameters, which cover) are made in doubles; every choice
gives a valid bound, and its value is computed in balls.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from keelback.bounds import _companions, _published, _risk
from keelback.bounds._chaining import CoveredClass, best_chain
from keelback.bounds._constants import ClassConstants
from keelback.bounds._covered import AnyConstants, covered_class
from keelback.bounds._covering import (
    BlockCover,
    best_cover,
    class_log_count,
    cover_log_count,
)
from keelback.bounds._lower import lower_log_rademacher as lower_of
from keelback.bounds._numbers import (
    Real,
    ball,
    enclosed,
    enclosed_each,
    exp,
    flint,
    log,
    logaddexp,
    lower_end,
    sqrt,
    upper_end,
)
from keelback.bounds._risk import loss_complexity_factor, loss_radii
from keelback.bounds._sharpened import log_output_bound as log_output_of
from keelback.bounds._sharpened import step_sums as step_sums_of
from keelback.bounds._steps import StepSums
from keelback.bounds.outward._doubles import exact
from keelback.bounds.outward._inversions import kl_inverse

_WORKING = 256


def step_sums(constants: ClassConstants) -> StepSums:
    """The logarithms of S1 and of S2 / S1, S3 / S1 and (S2 + max(s_A, 0) S3) / S1, rounded up."""

    sums = enclosed_each(lambda: vars(step_sums_of(constants.balls())))
    return StepSums(**{name: upper_end(found) for name, found in sums.items()})


def log_output_bound(constants: AnyConstants) -> float:
    """`keelback.bounds.log_output_bound`, rounded up; of stacks and Mamba blocks too."""
    if isinstance(constants, ClassConstants):
        return upper_end(enclosed(lambda: log_output_of(constants.balls())))
    _, in_balls = covered_class(constants)
    return upper_end(enclosed(lambda: in_balls().log_bound))


def published_log_rademacher(constants: ClassConstants) -> float:
    """`keelback.bounds.published_log_rademacher`, rounded up."""
    return upper_end(enclosed(lambda: _published.published_log_rademacher(constants.balls())))


def lower_log_rademacher(constants: ClassConstants) -> float:
    """`keelback.bounds.lower_log_rademacher`, rounded down."""
    return lower_end(enclosed(lambda: lower_of(constants.balls())))


def sharpened_log_rademacher(constants: AnyConstants, *, vocab_size: int = 0) -> float:
    """`keelback.bounds.sharpened_log_rademacher`, rounded up; of stacks and Mamba blocks too."""
    return log_rademacher(*covered_class(constants, vocab_size=vocab_size), constants.m)


def linear_attention_log_rademacher(constants: ClassConstants) -> float:
    """`keelback.bounds.linear_attention_log_rademacher`, rounded up."""
    return _companion(_companions.linear_attention_class, constants)


def softmax_attention_log_rademacher(constants: ClassConstants) -> float:
    """`keelback.bounds.softmax_attention_log_rademacher`, rounded up."""
    return _companion(_companions.softmax_attention_class, constants)


def rnn_log_rademacher(constants: ClassConstants) -> float:
    """`keelback.bounds.rnn_log_rademacher`, rounded up."""
    return _companion(_companions.rnn_class, constants)


def lti_log_rademacher(constants: ClassConstants) -> float:
    """`keelback.bounds.lti_log_rademacher`, rounded up."""
    return _companion(_companions.lti_class, constants)


def _companion(of: Callable[..., CoveredClass], constants: ClassConstants) -> float:
    return log_rademacher(of(constants), lambda: of(constants.balls()), constants.m)


def log_rademacher(
    approximate: CoveredClass, in_balls: Callable[[], CoveredClass], m: int
) -> float:
    """Logarithm of the bound on the Rademacher complexity by nested nets, rounded up.

    Args:
        approximate: the class in doubles, by which the radii are chosen.
        in_balls: gives the same class in balls.
        m: number of samples.
    """
    if approximate.log_bound == -math.inf:
        return upper_end(enclosed(lambda: in_balls().log_bound))
    blocks = approximate.blocks
    _, chain = best_chain(lambda radii: class_log_count(blocks, radii), m)
    covers = [best_cover(blocks, log_radius) for log_radius in chain[1:]]

    def bound() -> Real:
        found = in_balls()
        radii = [exp(ball(log_radius)) for log_radius in chain]
        relative = radii[-1]
        for level, cover in enumerate(covers, start=1):
            count = cover_log_count(found.blocks, cover, ball(chain[level]))
            relative += radii[level - 1] * sqrt(2 * count / m)
        return found.log_bound + log(relative)

    return upper_end(enclosed(bound))


def log_risk_gap(
    log_complexity: float,
    m: int,
    *,
    margin: float,
    delta: float | Fraction,
    classes: int = 2,
) -> float:
    """`keelback.bounds.log_risk_gap`, rounded up; `log_complexity` is rounded up already."""
    _risk.confidence_term(m, float(delta))
    loss_complexity_factor(margin, classes)

    def gap() -> Real:
        factor = (1 if classes == 2 else 2 * classes) / ball(margin)
        confidence = 3 * sqrt(log(2 / exact(delta)) / (2 * ball(m)))
        if log_complexity == -math.inf:
            return log(confidence)
        return logaddexp(log(2 * factor) + ball(log_complexity), log(confidence))

    return upper_end(enclosed(gap))


@dataclass(frozen=True)
class CoveringCover:
    """The cover behind a covering bound, and what it costs.

    Attributes:
        radius: in units of the loss.
        covers: how each parameter is covered; log radii in units of the output bound.
        log_count: logarithm of the number of centres, rounded up.
    """

    radius: float
    covers: Sequence[BlockCover]
    log_count: float


def covering_cover(
    approximate: CoveredClass,
    in_balls: Callable[[], CoveredClass],
    *,
    radius: float,
    margin: float,
    classes: int,
) -> CoveringCover:
    """A cover of the loss class at one radius.

    Args:
        approximate: the class in doubles.
        in_balls: gives the same class in balls.
        radius: in units of the loss.
        margin: ramp width g.
        classes: number of classes; 2 means a single logit.
    """
    if approximate.log_bound == -math.inf:
        return CoveringCover(radius, [], 0.0)
    lipschitz = 1 if classes == 2 else 2
    log_radius = math.log(radius * margin / lipschitz) - approximate.log_bound
    covers = best_cover(approximate.blocks, log_radius)

    def count() -> Real:
        found = in_balls()
        relative = log(ball(radius) * ball(margin) / lipschitz) - found.log_bound
        return cover_log_count(found.blocks, covers, relative)

    return CoveringCover(radius, covers, max(0.0, upper_end(enclosed(count))))


def log_covering_gap(
    constants: AnyConstants,
    *,
    margin: float,
    delta: float | Fraction,
    classes: int = 2,
    vocab_size: int = 0,
) -> float:
    """`keelback.bounds.log_covering_gap`, rounded up."""
    approximate, in_balls = covered_class(constants, classes=classes, vocab_size=vocab_size)
    counts, radii = _risk.loss_cover(approximate, margin, classes)
    deviations = np.sqrt((counts - math.log(float(delta))) / (2 * constants.m))
    radius = float(radii[int(np.argmin(2 * radii + deviations))])
    cover = covering_cover(approximate, in_balls, radius=radius, margin=margin, classes=classes)

    def gap() -> Real:
        confidence = (ball(cover.log_count) - log(exact(delta))) / (2 * ball(constants.m))
        return log(2 * ball(radius) + sqrt(confidence))

    return upper_end(enclosed(gap))


def covering_risk(
    empirical_risk: float,
    approximate: CoveredClass,
    in_balls: Callable[[], CoveredClass],
    m: int,
    *,
    margin: float,
    delta: float | Fraction,
    classes: int = 2,
) -> tuple[float, CoveringCover]:
    """`keelback.bounds.covering_risk`, rounded up, and the cover behind it.

    Args:
        empirical_risk: ramp risk on the m samples, rounded up.
        approximate: the class in doubles, with the head's rows and the embedding among its blocks.
        in_balls: gives the same class in balls.
        m: number of samples.
        margin: ramp width g.
        delta: failure probability.
        classes: number of classes; 2 means a single logit.
    """
    counts, radii = _risk.loss_cover(approximate, margin, classes)
    _, best = _risk.best_radius(empirical_risk, counts, radii, m, float(delta))
    cover = covering_cover(
        approximate, in_balls, radius=float(radii[best]), margin=margin, classes=classes
    )
    with flint().ctx.workprec(_WORKING):
        events = log(ball(len(loss_radii())) / exact(delta))
        budget = upper_end((ball(cover.log_count) + events) / m)
        mean = min(1.0, upper_end(ball(empirical_risk) + ball(cover.radius)))
        bound = upper_end(ball(cover.radius) + ball(kl_inverse(mean, budget)))
    return min(1.0, bound), cover

"""The sharpened bound: attained output bound, sensitivities without 1 / (1 - rho), nested nets."""

import math
from dataclasses import replace

import numpy as np

from keelback.bounds._chaining import CoveredClass
from keelback.bounds._constants import ClassConstants, ClassFormulas
from keelback.bounds._covering import Ball, Block, Intervals
from keelback.bounds._numbers import Real, is_ball, like, log, log1p, log_of, logaddexp
from keelback.bounds._steps import StepSums
from keelback.errors import InputError


def log_output_bound(constants: ClassFormulas) -> Real:
    """Logarithm of the largest |z| in the class at length T; -inf if the class is {0}.

    b = B_w B_B B_C B_u^3 D sum_{k < T} e^{s_A D k}. A member of the class attains it on the
    constant sequence u_t = B_u e_1, for every T and every sign of s_A (docs/studies/bounds.md,
    Proposition 1).

    Examples:
        >>> import math
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> round(math.exp(log_output_bound(c)), 3)
        10.495
    """
    return constants.log_gain + step_sums(constants).log_output


def sharpened_log_rademacher(constants: ClassConstants, *, vocab_size: int = 0) -> float:
    """Logarithm of the sharpened bound on the empirical Rademacher complexity.

    Holds for every sample of m sequences with token norms at most B_u. With `vocab_size` = V the
    embedding is trained too: V free rows of Euclidean norm at most B_u each.

    Args:
        constants: the class.
        vocab_size: number of trained embedding rows; 0 when the tokens are fixed vectors.

    Raises:
        InputError: `vocab_size` is negative.

    Source: docs/studies/bounds.md, Theorem 4 (and Corollary 5 for the embedding).

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> sharpened_log_rademacher(c) < published_log_rademacher(c)
        True
    """
    return selective_class(constants, vocab_size=vocab_size).log_rademacher(constants.m)


def selective_class(
    constants: ClassFormulas, *, vocab_size: int = 0, classes: int = 1
) -> CoveredClass:
    """The output bound and the parameters of the selective SSM, as for `selective_blocks`.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> len(selective_class(c).blocks)
        6
    """
    log_bound = log_output_bound(constants)
    if log_bound == -math.inf:
        return CoveredClass(log_bound, [])
    blocks = selective_blocks(constants, vocab_size=vocab_size, classes=classes)
    return CoveredClass(log_bound, blocks)


def selective_blocks(
    constants: ClassFormulas, *, vocab_size: int = 0, classes: int = 1
) -> list[Block]:
    """The parameters of the class, each reach in units of the output bound b.

    Args:
        constants: the class; b > 0.
        vocab_size: number of trained embedding rows.
        classes: number of rows of the head, each within B_w and M_w; the distance of two
            outputs is then the largest over the rows.

    Raises:
        InputError: `vocab_size` is negative or `classes` is below 1.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> len(selective_blocks(c))
        6
    """
    if vocab_size < 0 or classes < 1:
        raise InputError(f"need vocab_size >= 0 and classes >= 1, not {vocab_size}, {classes}")
    c = constants
    steps = step_sums(c)
    zero = 0 * steps.log_output
    log_gate = logaddexp(zero, steps.log_relative)
    matrix = count(c.N) * count(c.d)
    d = count(c.d)
    blocks: list[Block] = [
        Ball(d, zero, log_excess(c.M_w, c.B_w), copies=classes),
        Ball(matrix, zero, log_excess(c.M_B, c.B_B)),
        Ball(matrix, zero, log_excess(c.M_C, c.B_C)),
        *state_blocks(c, steps),
        Intervals(1, log_gate + log((c.p_hi - c.p_lo) / 2)),
        Ball(
            d,
            log_gate + log(c.B_q) + log(c.B_u),
            log_gate + log(c.M_q) + log(c.B_u),
        ),
    ]
    if vocab_size:
        blocks.append(Ball(d, log_token_reach(c), copies=vocab_size))
    return blocks


def log_token_reach(constants: ClassFormulas) -> Real:
    """Log of how far the output moves, in units of b, when every token moves by B_u.

    3 + B_u B_q (S1 + S2 + max(s_A, 0) S3) / S1: a token is a value, a key and (the last one) a
    query, and it sets its step. The bound is on the largest change of a token, so that the number
    of tokens does not count anew.

    Source: docs/studies/bounds.md, Lemma 5.
    """
    steps = step_sums(constants)
    log_gate = logaddexp(0 * steps.log_output, steps.log_relative)
    through_gate = log_gate + log(constants.B_q) + log(constants.B_u)
    return logaddexp(log_of(3, through_gate), through_gate)


def step_sums(constants: ClassFormulas) -> StepSums:
    """The sums over steps of a class; the gate's term depends on the kind of its states.

    For complex entries |a| tau |e^{a tau}| is at most |Re a| tau e^{Re a tau} + omega tau
    e^{Re a tau}, for full blocks at most |A| tau e^{mu tau}.

    Source: docs/studies/bounds.md, Complex diagonal states, Blocks that are not diagonal.
    """
    c = constants
    sums = StepSums.of(c.s_A, c.log_largest_step, c.T)
    if c.dense:
        return replace(sums, log_relative=log(c.B_A) + sums.log_absolute)
    if float(c.omega) > 0:
        turning = log(c.omega) + sums.log_absolute
        return replace(sums, log_relative=logaddexp(sums.log_relative, turning))
    return sums


def log_excess(absolute: Real, euclidean: Real) -> Real:
    return log(absolute) - log(euclidean)


def state_blocks(c: ClassFormulas, steps: StepSums) -> list[Block]:
    """The parameters of A: real parts and imaginary ones, or the matrices of the channels.

    Source: docs/studies/bounds.md, Lemma 4, and the paragraphs on other states.
    """
    matrix = count(c.N) * count(c.d)
    if c.dense:
        return [Ball(matrix * count(c.N), log(c.B_A) + steps.log_absolute)]
    blocks: list[Block] = [Intervals(matrix, log_state_reach(c, steps))]
    if float(c.omega) > 0:
        blocks.append(Intervals(matrix, log(c.omega) + steps.log_absolute))
    return blocks


def log_state_reach(c: ClassFormulas, steps: StepSums) -> Real:
    """Reach of the entries of A, covered on the scale phi with d phi = da / (eta + |a|).

    The scale is logarithmic far from zero and linear near it (and linear for a > 0). On it the
    output moves at most S2 + eta S3 per unit, and [-B_A, s_A] has length
    log((eta + B_A) / (eta + |s_A|)) for s_A < 0 and log(1 + B_A / eta) + s_A / eta otherwise. Every
    eta serves; the best of a fixed grid is taken, with the plain logarithm (eta = 0) and the
    plain interval (eta = infinity) at its ends.

    Source: docs/studies/bounds.md, Lemma 4.
    """
    if c.B_A + c.s_A == 0:
        return log(c.B_A + c.s_A)
    eta = _best_eta(*map(float, (c.s_A, c.B_A, steps.log_decaying, steps.log_absolute)))
    return _state_reach_at(eta, c, steps) - log_of(2, c.s_A)


def _best_eta(s_A: float, B_A: float, log_decaying: float, log_absolute: float) -> float:
    eta = np.geomspace(1e-60, 1e60, 961)
    length = np.log1p((B_A + s_A) / (eta - s_A)) if s_A < 0 else np.log1p(B_A / eta) + s_A / eta
    with np.errstate(divide="ignore"):
        reach = np.logaddexp(log_decaying, np.log(eta) + log_absolute) + np.log(length)
    best = int(np.argmin(reach))
    candidates = {float(eta[best]): float(reach[best])}
    candidates[math.inf] = log_absolute + log(B_A + s_A)
    if s_A < 0:
        candidates[0.0] = log_decaying + log(math.log(B_A) - math.log(-s_A))
    return min(candidates, key=lambda eta: candidates[eta])


def _state_reach_at(eta: float, c: ClassFormulas, steps: StepSums) -> Real:
    if eta == math.inf:
        return steps.log_absolute + log(c.B_A + c.s_A)
    if eta == 0:
        return steps.log_decaying + log(log(c.B_A) - log(-c.s_A))
    scale = like(eta, c.s_A)
    if c.s_A < 0:
        length = log1p((c.B_A + c.s_A) / (scale - c.s_A))
    else:
        length = log1p(c.B_A / scale) + c.s_A / scale
    return logaddexp(steps.log_decaying, log(scale) + steps.log_absolute) + log(length)


def count(number: Real) -> int:
    """A count of the constants as a whole number, which balls hold exactly."""
    return int(number.unique_fmpz()) if is_ball(number) else int(number)

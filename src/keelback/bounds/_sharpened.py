"""The sharpened bound: attained output bound, sensitivities without 1 / (1 - rho), nested nets."""

import math

import numpy as np

from keelback.bounds._chaining import nested_chaining
from keelback.bounds._constants import ClassConstants
from keelback.bounds._covering import Ball, Block, Intervals, class_log_count
from keelback.bounds._series import safe_log
from keelback.bounds._steps import StepSums
from keelback.errors import InputError


def log_output_bound(constants: ClassConstants) -> float:
    """Logarithm of the largest |z| in the class at length T; -inf if the class is {0}.

    b = B_w B_B B_C B_u^3 D sum_{k < T} e^{s_A D k}. A member of the class attains it on the
    constant sequence u_t = B_u e_1, for every T and every sign of s_A (docs/bounds.md,
    Proposition 1).
    """
    return constants.log_gain + _steps(constants).log_output


def sharpened_log_rademacher(constants: ClassConstants, *, vocab_size: int = 0) -> float:
    """Logarithm of the sharpened bound on the empirical Rademacher complexity.

    Holds for every sample of m sequences with token norms at most B_u. With `vocab_size` = V the
    embedding is trained too: V free rows of Euclidean norm at most B_u each.

    Args:
        constants: the class.
        vocab_size: number of trained embedding rows; 0 when the tokens are fixed vectors.

    Raises:
        InputError: `vocab_size` is negative.

    Source: docs/bounds.md, Theorem 4 (and Corollary 5 for the embedding).
    """
    log_bound = log_output_bound(constants)
    if log_bound == -math.inf:
        return -math.inf
    blocks = selective_blocks(constants, vocab_size=vocab_size)
    relative = nested_chaining(lambda radii: class_log_count(blocks, radii), constants.m)
    return log_bound + math.log(relative)


def selective_blocks(
    constants: ClassConstants, *, vocab_size: int = 0, classes: int = 1
) -> list[Block]:
    """The parameters of the class, each reach in units of the output bound b.

    Args:
        constants: the class; b > 0.
        vocab_size: number of trained embedding rows.
        classes: number of rows of the head, each within B_w and M_w; the distance of two
            outputs is then the largest over the rows.

    Raises:
        InputError: `vocab_size` is negative or `classes` is below 1.
    """
    if vocab_size < 0 or classes < 1:
        raise InputError(f"need vocab_size >= 0 and classes >= 1, not {vocab_size}, {classes}")
    c = constants
    steps = _steps(c)
    log_gate = float(np.logaddexp(0.0, steps.log_relative))
    matrix = c.N * c.d
    blocks: list[Block] = [
        Ball(c.d, 0.0, log_excess(c.M_w, c.B_w), copies=classes),
        Ball(matrix, 0.0, log_excess(c.M_B, c.B_B)),
        Ball(matrix, 0.0, log_excess(c.M_C, c.B_C)),
        Intervals(matrix, log_state_reach(c, steps)),
        Intervals(1, log_gate + safe_log((c.p_hi - c.p_lo) / 2)),
        Ball(
            c.d,
            log_gate + safe_log(c.B_q) + safe_log(c.B_u),
            log_gate + safe_log(c.M_q) + safe_log(c.B_u),
        ),
    ]
    if vocab_size:
        blocks.append(Ball(c.d, log_token_reach(c), copies=vocab_size))
    return blocks


def log_token_reach(constants: ClassConstants) -> float:
    """Log of how far the output moves, in units of b, when every token moves by B_u.

    3 + B_u B_q (S1 + S2) / S1: a token is a value, a key and (the last one) a query, and it sets
    its step. The bound is on the largest change of a token, so it does not grow with T.

    Source: docs/bounds.md, Lemma 5.
    """
    log_gate = float(np.logaddexp(0.0, _steps(constants).log_relative))
    through_gate = log_gate + safe_log(constants.B_q) + safe_log(constants.B_u)
    return float(np.logaddexp(math.log(3), through_gate))


def _steps(constants: ClassConstants) -> StepSums:
    return StepSums.of(constants.s_A, constants.log_largest_step, constants.T)


def log_excess(absolute: float, euclidean: float) -> float:
    return math.log(absolute) - math.log(euclidean)


def log_state_reach(c: ClassConstants, steps: StepSums) -> float:
    """Reach of the entries of A, covered on the scale phi with d phi = da / (eta + |a|).

    The scale is logarithmic far from zero and linear near it (and linear for a > 0). On it the
    output moves at most S2 + eta S3 per unit, and [-B_A, s_A] has length
    log((eta + B_A) / (eta + |s_A|)) for s_A < 0 and log(1 + B_A / eta) + s_A / eta otherwise. Every
    eta serves; the best of a fixed grid is taken, with the plain logarithm (eta = 0) and the
    plain interval (eta = infinity) at its ends.

    Source: docs/bounds.md, Lemma 4.
    """
    eta = np.geomspace(1e-60, 1e60, 961)
    if c.s_A < 0:
        length = np.log1p((c.B_A + c.s_A) / (eta - c.s_A))
    else:
        length = np.log1p(c.B_A / eta) + c.s_A / eta
    with np.errstate(divide="ignore"):
        reach = np.logaddexp(steps.log_decaying, np.log(eta) + steps.log_absolute) + np.log(length)
    ends = [float(np.min(reach)), steps.log_absolute + safe_log(c.B_A + c.s_A)]
    if c.s_A < 0:
        ends.append(steps.log_decaying + safe_log(math.log(c.B_A) - math.log(-c.s_A)))
    return min(ends) - math.log(2)

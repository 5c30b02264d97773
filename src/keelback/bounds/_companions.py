"""Linear attention, softmax attention, a vanilla RNN and an LTI SSM on the same constants.

Every bound is made by the same machinery (one-at-a-time covers, nested nets), so that the
differences between rows of a table are differences between architectures.
"""

import math

import numpy as np

from keelback.bounds._chaining import nested_chaining
from keelback.bounds._constants import ClassConstants
from keelback.bounds._covering import Ball, Block, Intervals, class_log_count
from keelback.bounds._published import log_step_factor
from keelback.bounds._series import log_geometric_sum, log_softplus, safe_log
from keelback.bounds._sharpened import log_excess, log_state_reach
from keelback.bounds._steps import StepSums


def linear_attention_log_rademacher(constants: ClassConstants) -> float:
    """Log Rademacher bound of z = w . sum_t (W_C u_T . W_B u_t) u_t, which is A = 0, delta = 1.

    Output bound B_w B_B B_C B_u^3 T, attained; sensitivities to w, W_B, W_C equal to it.

    Source: docs/bounds.md, Companions; compared in arXiv 2502.01473, Table 1.
    """
    c = constants
    return _log_rademacher(c.log_gain + math.log(c.T), _head_and_maps(c), c.m)


def softmax_attention_log_rademacher(constants: ClassConstants) -> float:
    """Log Rademacher bound of z = w . sum_t softmax_t(W_C u_T . W_B u_t) u_t.

    Output bound B_w B_u. The softmax moves by at most max_t |ds_t| in l1, so a change of W_B (or
    W_C) moves the output by at most B_w B_C B_u^3 (B_w B_B B_u^3) times its spectral norm.

    Source: docs/bounds.md, Companions; Edelman et al., ICML 2022, for the same mechanism.
    """
    c = constants
    log_score = safe_log(c.B_B) + safe_log(c.B_C) + 2 * safe_log(c.B_u)
    if log_score == -math.inf:
        blocks: list[Block] = [Ball(c.d, 0.0)]
    else:
        blocks = _head_and_maps(c, log_score)
    return _log_rademacher(safe_log(c.B_w) + safe_log(c.B_u), blocks, c.m)


def rnn_log_rademacher(constants: ClassConstants) -> float:
    """Log Rademacher bound of z = w . W_C^T x_T, x_t = tanh(W_h x_{t-1} + W_B u_t) in R^N.

    The file of constants has none for W_h: its spectral norm is taken to be at most rho, the
    selective SSM's published step factor, so both forget at the same rate. States are bounded by
    X = min(sqrt(N), B_B B_u S_1) with S_1 = sum_{k < T} rho^k.

    Source: docs/bounds.md, Companions; Chen, Li and Zhao, AISTATS 2020, for the mechanism.
    """
    c = constants
    log_rho = log_step_factor(c)
    log_s1 = log_geometric_sum(log_rho, c.T)
    log_input = safe_log(c.B_B) + safe_log(c.B_u)
    log_state = min(math.log(c.N) / 2, log_input + log_s1)
    log_bound = safe_log(c.B_w) + safe_log(c.B_C) + log_state
    if log_bound == -math.inf:
        return -math.inf
    log_drive = log_input + log_s1 - log_state
    matrix = c.N * c.d
    blocks: list[Block] = [
        Ball(c.d, 0.0, log_excess(c.M_w, c.B_w)),
        Ball(matrix, 0.0, log_excess(c.M_C, c.B_C)),
        Ball(matrix, log_drive, log_drive + log_excess(c.M_B, c.B_B)),
        Ball(c.N * c.N, log_rho + log_s1),
    ]
    return _log_rademacher(log_bound, blocks, c.m)


def lti_log_rademacher(constants: ClassConstants) -> float:
    """Log Rademacher bound of the LTI SSM: delta = softplus(p), B and C constant vectors in R^N.

    Output bound B_w B_B B_C B_u S1 with D = softplus(p_hi), B and C bounded by B_B, M_B and
    B_C, M_C. Linear in B_u where the selective model is cubic.

    Source: docs/bounds.md, Companions; compare Racz et al., arXiv 2405.20278.
    """
    c = constants
    steps = StepSums.of(c.s_A, log_softplus(c.p_hi), c.T)
    log_bound = sum(map(safe_log, (c.B_w, c.B_B, c.B_C, c.B_u))) + steps.log_output
    if log_bound == -math.inf:
        return -math.inf
    log_gate = float(np.logaddexp(0.0, steps.log_relative))
    blocks: list[Block] = [
        Ball(c.d, 0.0, log_excess(c.M_w, c.B_w)),
        Ball(c.N, 0.0, log_excess(c.M_B, c.B_B)),
        Ball(c.N, 0.0, log_excess(c.M_C, c.B_C)),
        Intervals(c.N * c.d, log_state_reach(c, steps)),
        Intervals(1, log_gate + safe_log((c.p_hi - c.p_lo) / 2)),
    ]
    return _log_rademacher(log_bound, blocks, c.m)


def _head_and_maps(c: ClassConstants, log_score: float = 0.0) -> list[Block]:
    if c.log_gain == -math.inf:
        return []
    matrix = c.N * c.d
    return [
        Ball(c.d, 0.0, log_excess(c.M_w, c.B_w)),
        Ball(matrix, log_score, log_score + log_excess(c.M_B, c.B_B)),
        Ball(matrix, log_score, log_score + log_excess(c.M_C, c.B_C)),
    ]


def _log_rademacher(log_bound: float, blocks: list[Block], m: int) -> float:
    if log_bound == -math.inf:
        return -math.inf
    return log_bound + math.log(nested_chaining(lambda r: class_log_count(blocks, r), m))

"""Linear attention, softmax attention, a vanilla RNN and an LTI SSM on the same constants.

Every bound is made by the same machinery (one-at-a-time covers, nested nets), so that the
differences between rows of a table are differences between architectures.
"""

import math

from keelback.bounds._chaining import CoveredClass
from keelback.bounds._constants import ClassConstants, ClassFormulas
from keelback.bounds._covering import Ball, Block, Intervals
from keelback.bounds._numbers import Real, log, logaddexp, minimum, total
from keelback.bounds._published import log_step_factor
from keelback.bounds._series import log_geometric_sum, log_softplus
from keelback.bounds._sharpened import count, log_excess, log_state_reach
from keelback.bounds._steps import StepSums


def linear_attention_log_rademacher(constants: ClassConstants) -> float:
    """Log Rademacher bound of z = w . sum_t (W_C u_T . W_B u_t) u_t, which is A = 0, delta = 1.

    Output bound B_w B_B B_C B_u^3 T, attained; sensitivities to w, W_B, W_C equal to it.

    Source: docs/studies/bounds.md, Companions; compared in arXiv 2502.01473, Table 1.

    Examples:
        >>> import math
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> round(linear_attention_log_rademacher(c) / math.log(10), 2)
        2.29
    """
    return linear_attention_class(constants).log_rademacher(constants.m)


def softmax_attention_log_rademacher(constants: ClassConstants) -> float:
    """Log Rademacher bound of z = w . sum_t softmax_t(W_C u_T . W_B u_t) u_t.

    Output bound B_w B_u. The softmax moves by at most max_t |ds_t| in l1, so a change of W_B (or
    W_C) moves the output by at most B_w B_C B_u^3 (B_w B_B B_u^3) times its spectral norm.

    Source: docs/studies/bounds.md, Companions; Edelman et al., ICML 2022, for the same mechanism.

    Examples:
        >>> import math
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> round(softmax_attention_log_rademacher(c) / math.log(10), 2)
        -0.71
    """
    return softmax_attention_class(constants).log_rademacher(constants.m)


def rnn_log_rademacher(constants: ClassConstants) -> float:
    """Log Rademacher bound of z = w . W_C^T x_T, x_t = tanh(W_h x_{t-1} + W_B u_t) in R^N.

    The file of constants has none for W_h: its spectral norm is taken to be at most rho, the
    selective SSM's published step factor, so both forget at the same rate. States are bounded by
    X = min(sqrt(N), B_B B_u S_1) with S_1 = sum_{k < T} rho^k.

    Source: docs/studies/bounds.md, Companions; Chen, Li and Zhao, AISTATS 2020, for the mechanism.

    Examples:
        >>> import math
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> round(rnn_log_rademacher(c) / math.log(10), 2)
        -0.28
    """
    return rnn_class(constants).log_rademacher(constants.m)


def lti_log_rademacher(constants: ClassConstants) -> float:
    """Log Rademacher bound of the LTI SSM: delta = softplus(p), B and C constant vectors in R^N.

    Output bound B_w B_B B_C B_u S1 with D = softplus(p_hi), B and C bounded by B_B, M_B and
    B_C, M_C. Linear in B_u where the selective model is cubic.

    Source: docs/studies/bounds.md, Companions; compare Racz et al., arXiv 2405.20278.

    Examples:
        >>> import math
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> round(lti_log_rademacher(c) / math.log(10), 2)
        0.21
    """
    return lti_class(constants).log_rademacher(constants.m)


def linear_attention_class(c: ClassFormulas) -> CoveredClass:
    """The output bound and the parameters of linear attention."""
    return CoveredClass(c.log_gain + log(c.T), _head_and_maps(c, 0 * log(c.T)))


def softmax_attention_class(c: ClassFormulas) -> CoveredClass:
    """The output bound and the parameters of softmax attention."""
    log_score = log(c.B_B) + log(c.B_C) + 2 * log(c.B_u)
    blocks = _head_and_maps(c, log_score)
    if not blocks:
        blocks = [Ball(count(c.d), 0 * log(c.T))]
    return CoveredClass(log(c.B_w) + log(c.B_u), blocks)


def rnn_class(c: ClassFormulas) -> CoveredClass:
    """The output bound and the parameters of the vanilla RNN."""
    log_rho = log_step_factor(c)
    log_s1 = log_geometric_sum(log_rho, c.T)
    log_input = log(c.B_B) + log(c.B_u)
    log_state = minimum(log(c.N) / 2, log_input + log_s1)
    log_bound = log(c.B_w) + log(c.B_C) + log_state
    if log_bound == -math.inf:
        return CoveredClass(log_bound, [])
    log_drive = log_input + log_s1 - log_state
    d, N = count(c.d), count(c.N)
    blocks: list[Block] = [
        Ball(d, 0 * log_s1, log_excess(c.M_w, c.B_w)),
        Ball(N * d, 0 * log_s1, log_excess(c.M_C, c.B_C)),
        Ball(N * d, log_drive, log_drive + log_excess(c.M_B, c.B_B)),
        Ball(N * N, log_rho + log_s1),
    ]
    return CoveredClass(log_bound, blocks)


def lti_class(c: ClassFormulas) -> CoveredClass:
    """The output bound and the parameters of the LTI SSM."""
    steps = StepSums.of(c.s_A, log_softplus(c.p_hi), c.T)
    log_bound = total(map(log, (c.B_w, c.B_B, c.B_C, c.B_u))) + steps.log_output
    if log_bound == -math.inf:
        return CoveredClass(log_bound, [])
    zero = 0 * steps.log_output
    log_gate = logaddexp(zero, steps.log_relative)
    d, N = count(c.d), count(c.N)
    blocks: list[Block] = [
        Ball(d, zero, log_excess(c.M_w, c.B_w)),
        Ball(N, zero, log_excess(c.M_B, c.B_B)),
        Ball(N, zero, log_excess(c.M_C, c.B_C)),
        Intervals(N * d, log_state_reach(c, steps)),
        Intervals(1, log_gate + log((c.p_hi - c.p_lo) / 2)),
    ]
    return CoveredClass(log_bound, blocks)


def _head_and_maps(c: ClassFormulas, log_score: Real) -> list[Block]:
    if c.log_gain == -math.inf:
        return []
    matrix = count(c.N) * count(c.d)
    return [
        Ball(count(c.d), 0 * log_score, log_excess(c.M_w, c.B_w)),
        Ball(matrix, log_score, log_score + log_excess(c.M_B, c.B_B)),
        Ball(matrix, log_score, log_score + log_excess(c.M_C, c.B_C)),
    ]

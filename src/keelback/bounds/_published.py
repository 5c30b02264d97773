"""Theorem 3.3 of arXiv 2502.01473 with every constant written out."""

import math
from dataclasses import dataclass

from keelback.bounds._chaining import log_dudley_of_capacity
from keelback.bounds._constants import ClassFormulas
from keelback.bounds._covering import log_maurey_capacity
from keelback.bounds._numbers import Real, exp, log, log_of, logaddexp, maximum
from keelback.bounds._series import log_geometric_sum, mean_index
from keelback.bounds._sharpened import count


@dataclass(frozen=True)
class PublishedTerms:
    """What the published bound is assembled from, as logarithms.

    Attributes:
        log_rho: log of the step factor, (1 + e^{p_lo - B_q B_u})^{s_A} for s_A < 0 and
            (1 + e^{p_hi + B_q B_u})^{s_A} for s_A >= 0.
        log_s1: log of S_1 = sum_{k < T} rho^k.
        log_s2: log of S_2 = sum_{k < T} k rho^k.
        log_bound: log of the output bound B_w B_B B_C B_u^3 D S_1.
        log_capacity: log of C, where log N(F, e) <= C^2 / e^2.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> round(float(np.exp(published_terms(c).log_s1)), 1)  # S_1 = (1 - rho^T) / (1 - rho)
        50.2
    """

    log_rho: Real
    log_s1: Real
    log_s2: Real
    log_bound: Real
    log_capacity: Real


def log_step_factor(constants: ClassFormulas) -> Real:
    """Logarithm of rho, the largest factor e^{A delta_t} that a state meets in one token.

    Source: arXiv 2502.01473, Theorem 3.3; e^{softplus(x)} = 1 + e^x.

    Examples:
        >>> import math
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> round(math.exp(log_step_factor(c)), 3)
        0.98
    """
    if constants.s_A < 0:
        return constants.s_A * exp(constants.log_smallest_step)
    return constants.s_A * exp(constants.log_largest_step)


def published_terms(constants: ClassFormulas) -> PublishedTerms:
    """The pieces of the published bound.

    Lipschitz constants, one parameter at a time, with G = B_B B_C B_u^3, |A| <= a = max(B_A, s_A)
    and softplus 1-Lipschitz:

        w    (l2)            G D S_1                     l1 radius M_w
        W_B  (spectral)      B_w B_C B_u^3 D S_1         l1 radius M_B
        W_C  (spectral)      B_w B_B B_u^3 D S_1         l1 radius M_C
        A    (largest entry) B_w G D^2 S_2               d N intervals of half-length (B_A + s_A)/2
        p                    B_w G (S_1 + a D S_2)       one interval, half-length (p_hi - p_lo)/2
        q    (l2)            B_u times that of p         l1 radius M_q

    Each is covered by Maurey, log N <= (M/e)^2 log(2 k + 1); A and p coordinate by coordinate
    (k = 1), which gives the published order sqrt(d) for A.

    Choices the theorem's O-notation leaves open: both intervals are centred, their half-lengths
    are the radii; A's d N coordinates share one radius in the maximum norm.

    Source: arXiv 2502.01473, Theorem 3.3 and its proof.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> round(published_terms(c).log_rho, 4)  # below 0: states decay
        -0.0201
    """
    c = constants
    log_rho = log_step_factor(c)
    log_s1 = log_geometric_sum(log_rho, c.T)
    log_s2 = log_s1 + log(mean_index(log_rho, c.T))
    log_D, log_gain = c.log_largest_step, c.log_gain
    log_bound = log_gain + log_D + log_s1
    log_largest_state = log(maximum(c.B_A, c.s_A))
    log_gate = log_gain + logaddexp(log_s1, log_largest_state + log_D + log_s2)
    if log_gain == -math.inf:
        return PublishedTerms(log_rho, log_s1, log_s2, -math.inf, -math.inf)
    d, matrix = count(c.d), count(c.N) * count(c.d)
    reaches = {
        "w": (log_bound + log(c.M_w / c.B_w), d),
        "W_B": (log_bound + log(c.M_B / c.B_B), matrix),
        "W_C": (log_bound + log(c.M_C / c.B_C), matrix),
        "A": (
            log_gain + 2 * log_D + log_s2 + log((c.B_A + c.s_A) / 2) + log_of(matrix, log_D) / 2,
            1,
        ),
        "p": (log_gate + log((c.p_hi - c.p_lo) / 2), 1),
        "q": (log_gate + log(c.B_u) + log(c.M_q), d),
    }
    log_capacity = log_maurey_capacity(
        [reach for reach, _ in reaches.values()], [k for _, k in reaches.values()]
    )
    return PublishedTerms(log_rho, log_s1, log_s2, log_bound, log_capacity)


def published_log_rademacher(constants: ClassFormulas) -> Real:
    """Logarithm of the published bound on the empirical Rademacher complexity.

    (12 C / sqrt(m)) (1 + max(0, log(b sqrt(m) / (3 C)))), C and b from `published_terms`.
    Independent of T for s_A < 0 once T is large, of order T rho^T for s_A > 0.

    Source: arXiv 2502.01473, Theorem 3.3.

    Examples:
        >>> import math
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> round(published_log_rademacher(c) / math.log(10), 2)
        3.57
    """
    terms = published_terms(constants)
    if terms.log_bound == -math.inf:
        return -math.inf
    return log_dudley_of_capacity(terms.log_capacity, terms.log_bound, constants.m)

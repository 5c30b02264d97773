"""Lower bounds: what no bound that uses only the class constants can go below."""

import math

from keelback.bounds._constants import ClassFormulas
from keelback.bounds._numbers import Real, is_ball, log, log_of
from keelback.bounds._sharpened import log_output_bound
from keelback.errors import InputError


def log_mean_absolute_sign_sum(m: Real) -> Real:
    """Logarithm of E|sigma_1 + ... + sigma_m| for independent fair signs.

    2 h C(m, h) / 2^m with h = ceil(m / 2), which is about sqrt(2 m / pi).

    Raises:
        InputError: m < 1.

    Examples:
        >>> import math
        >>> round(math.exp(log_mean_absolute_sign_sum(2)), 6)
        1.0
    """
    if m < 1:
        raise InputError(f"m = {m} must be at least 1")
    if is_ball(m):
        whole = int(m.unique_fmpz())
        h = type(m)((whole + 1) // 2)
        log_ways = (m + 1).lgamma() - (h + 1).lgamma() - (m - h + 1).lgamma()
        return log(2 * h) + log_ways - m * log_of(2, m)
    if m > 10**6:
        odd = m if m % 2 else m - 1
        return 0.5 * math.log(2 * odd / math.pi) + 0.25 / odd
    h = (m + 1) // 2
    log_binomial = math.lgamma(m + 1) - math.lgamma(h + 1) - math.lgamma(m - h + 1)
    return math.log(2 * h) + log_binomial - m * math.log(2)


def lower_log_rademacher(constants: ClassFormulas, log_magnitude: Real | None = None) -> Real:
    """Logarithm of a lower bound on the empirical Rademacher complexity.

    A class closed under w -> -w that holds a function of constant magnitude c on the sample has
    Rad >= c E|sum_i sigma_i| / m. On the worst sample, m copies of the sequence that attains the
    output bound b, c is b: no bound in terms of the constants can be smaller.

    Args:
        constants: the class.
        log_magnitude: log c for a sample on which some member is constant; by default log b.

    Raises:
        InputError: c is larger than b.

    Source: arXiv 2502.01473, Theorem 4.1 (s_A > 0); here for every s_A and with the exact
    binomial in place of sqrt(2 m / pi).

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> lower_log_rademacher(c) < sharpened_log_rademacher(c)
        True
    """
    log_bound = log_output_bound(constants)
    log_magnitude = log_bound if log_magnitude is None else log_magnitude
    if log_magnitude > log_bound:
        raise InputError("log_magnitude is larger than the largest output of the class")
    return log_magnitude + log_mean_absolute_sign_sum(constants.m) - log(constants.m)

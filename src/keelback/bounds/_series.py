"""The sums over tokens that every bound is made of, in log space and stable at rho = 1."""

from keelback.bounds._numbers import Real, exp, expm1, is_ball, log, log1p, maximum


def log_softplus(x: Real) -> Real:
    """log(log(1 + e^x)); for very negative x, where softplus underflows, it is x."""
    if not is_ball(x) and x < -40:
        return x
    return log(maximum(x, 0 * x) + log1p(exp(-abs(x))))


def log_geometric_sum(log_ratio: Real, count: Real) -> Real:
    """Logarithm of S_1 = sum_{k < count} rho^k, with rho = e^{log_ratio} of either side of 1.

    Source: arXiv 2502.01473, Theorem 3.3 (the sum S_1).

    Examples:
        >>> import math
        >>> round(math.exp(log_geometric_sum(math.log(0.5), 3)), 6)
        1.75
    """
    if log_ratio == 0:
        return log(count)
    size = abs(log_ratio)
    if not is_ball(log_ratio) and size * count < 1e-8:
        return log(count) + log_ratio * (count - 1) / 2
    falling = log(-expm1(-size * count)) - log(-expm1(-size))
    return falling + maximum(log_ratio, 0 * log_ratio) * (count - 1)


def mean_index(log_ratio: Real, count: Real) -> Real:
    """S_2 / S_1 = sum_{k < count} k rho^k / sum_{k < count} rho^k, with rho = e^{log_ratio}.

    Source: arXiv 2502.01473, Theorem 3.3. The closed form of S_2 with (1 - rho) in the last
    denominator is the sum; as a ratio it neither overflows nor cancels. The value lies between
    0 (log_ratio -> -inf) and count - 1 (log_ratio -> inf) and is (count - 1) / 2 at rho = 1.

    Examples:
        >>> round(float(mean_index(0.0, 3)), 6)
        1.0
    """
    if count == 1:
        return 0 * log_ratio
    if log_ratio < -1:
        last = exp(log_ratio * count) * count / -expm1(log_ratio * count)
        return exp(log_ratio) / -expm1(log_ratio) - last
    return count * _excess(log_ratio * count) - _excess(log_ratio)


def _excess(y: Real) -> Real:
    """1 / (1 - e^{-y}) - 1 / y, which is smooth: 1/2 + y/12 - y^3/720 + ..."""
    if y == 0:
        return (1 + y) / 2
    if is_ball(y) and abs(y) < 2.0**-30:
        rest = y**3 / 720  # the series alternates for |y| < 2 pi, and so bounds what is left out
        return (1 + y / 6) / 2 - rest.union(0 * rest)
    if not is_ball(y) and abs(y) < 0.1:
        return 0.5 + y / 12 - y**3 / 720 + y**5 / 30240
    if y < 0:
        return exp(y) / expm1(y) - 1 / y
    return 1 / -expm1(-y) - 1 / y

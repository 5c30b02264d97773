"""The sums over tokens that every bound is made of, in log space and stable at rho = 1."""

import math


def safe_log(x: float | int) -> float:
    """Natural logarithm with log 0 = -inf."""
    return math.log(x) if x > 0 else -math.inf


def log_softplus(x: float) -> float:
    """log(log(1 + e^x)); for very negative x, where softplus underflows, it is x."""
    return x if x < -40 else math.log(max(x, 0.0) + math.log1p(math.exp(-abs(x))))


def log_geometric_sum(log_ratio: float, count: int) -> float:
    """Logarithm of S_1 = sum_{k < count} rho^k, with rho = e^{log_ratio} of either side of 1.

    Source: arXiv 2502.01473, Theorem 3.3 (the sum S_1).
    """
    if abs(log_ratio) * count < 1e-8:
        return math.log(count) + log_ratio * (count - 1) / 2
    falling = math.log(-math.expm1(-abs(log_ratio) * count)) - math.log(
        -math.expm1(-abs(log_ratio))
    )
    return falling + max(log_ratio, 0.0) * (count - 1)


def mean_index(log_ratio: float, count: int) -> float:
    """S_2 / S_1 = sum_{k < count} k rho^k / sum_{k < count} rho^k, with rho = e^{log_ratio}.

    Source: arXiv 2502.01473, Theorem 3.3. The closed form of S_2 with (1 - rho) in the last
    denominator is the sum; as a ratio it neither overflows nor cancels. The value lies between
    0 (log_ratio -> -inf) and count - 1 (log_ratio -> inf) and is (count - 1) / 2 at rho = 1.
    """
    if count == 1:
        return 0.0
    if log_ratio < -1:
        last = math.exp(log_ratio * count) * count / -math.expm1(log_ratio * count)
        return math.exp(log_ratio) / -math.expm1(log_ratio) - last
    return count * _excess(log_ratio * count) - _excess(log_ratio)


def _excess(y: float) -> float:
    """1 / (1 - e^{-y}) - 1 / y, which is smooth: 1/2 + y/12 - y^3/720 + ..."""
    if abs(y) < 0.1:
        return 0.5 + y / 12 - y**3 / 720 + y**5 / 30240
    if y < -700:
        return -1 / y
    return 1 / -math.expm1(-y) - 1 / y

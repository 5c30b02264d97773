"""Sums over steps and bounds of classes, written again in mpmath from docs/studies/bounds.md.

How many digits a class needs is known beforehand. Everything is a sum of positive numbers, a
product or a root of them, but for two things, r = s_A D being the logarithm of the ratio of two
steps: an exponential of rT is off by rT units in the last place, and the closed forms cancel
log10(1 / r) digits in 1 - rho and log10(1 / rT) in sum k rho^k. `digits_for` allows for all of
them and for `RIGHT` digits and some that the rest may lose.
"""

import functools
import math

import mpmath
from mpmath import mpf

from keelback.bounds import ClassConstants

RIGHT = 30
"""To so many digits the numbers here are right, if evaluated with `digits_for` digits."""

_SPARE = 12
_FEW = 12


def digits_for(c: ClassConstants) -> int:
    """Decimal digits that `log_sums` and `bounds_of` need for this class."""
    reach, lost = c.B_q * c.B_u, 0.0
    for step in (c.p_hi + reach, c.p_lo - reach):
        if c.s_A == 0:
            break
        log_D = step if step < -30 else math.log(max(step, 0.0) + math.log1p(math.exp(-abs(step))))
        log_r = math.log10(abs(c.s_A)) + log_D / math.log(10)
        log_rT = log_r + math.log10(c.T)
        if log_rT > -(RIGHT + _SPARE):
            lost = max(lost, log_rT, -log_r + max(-log_rT, 0.0))
    return RIGHT + _SPARE + math.ceil(lost)


def softplus(x: mpf) -> mpf:
    return mpmath.log1p(mpmath.exp(x))


def log(x: mpf) -> mpf:
    return mpmath.log(x) if x > 0 else -mpmath.inf


def power_sums(log_ratio: mpf, count: int) -> tuple[mpf, mpf]:
    """sum rho^k and sum k rho^k over k < count."""
    if abs(log_ratio) * count < mpf(10) ** -(RIGHT + _SPARE):  # less than that is left out
        return mpf(count), mpf(count) * (count - 1) / 2
    rho = mpmath.exp(log_ratio)
    if count <= _FEW:
        s_1, s_2, power = mpf(0), mpf(0), mpf(1)
        for k in range(count):
            s_1, s_2, power = s_1 + power, s_2 + k * power, power * rho
        return s_1, s_2
    last = mpmath.exp(log_ratio * count)
    s_1 = (1 - last) / (1 - rho)
    return s_1, (rho * s_1 - count * last) / (1 - rho)


def log_sums(c: ClassConstants) -> dict[str, mpf]:
    """The four fields of `StepSums`, from Lemmas 1 to 3 as they are written."""
    D = softplus(mpf(c.p_hi) + mpf(c.B_q) * mpf(c.B_u))
    s, T = mpf(c.s_A), mpf(c.T)
    geometric, indexed = power_sums(s * D, c.T)
    s_1 = D * geometric
    if c.s_A < 0:
        s_2 = min((T - 1) * D, 3 / -s + D) / mpmath.e
        s_3 = min(D**2 * T * (T - 1) / 2, 1 / s**2 + D / (mpmath.e * -s))
        relative = s_2
    else:
        s_2 = (T - 1) * D / mpmath.e
        s_3 = D**2 * indexed
        relative = s_2 + s * s_3
    decaying = log(s_2 / s_1)
    return {
        "log_output": mpmath.log(s_1),
        "log_decaying": decaying,
        "log_absolute": log(s_3 / s_1),
        "log_relative": decaying if c.s_A <= 0 else log(relative / s_1),
    }


def bounds_of(c: ClassConstants) -> dict[str, mpf]:
    """Logarithms of the published, the output and the lower bound."""
    B_u, B_w, B_A, m = mpf(c.B_u), mpf(c.B_w), mpf(c.B_A), mpf(c.m)
    reach = mpf(c.B_q) * B_u
    D = softplus(mpf(c.p_hi) + reach)
    attained_sum, _ = largest = power_sums(mpf(c.s_A) * D, c.T)
    s_1, s_2 = largest
    if c.s_A < 0:
        s_1, s_2 = power_sums(mpf(c.s_A) * softplus(mpf(c.p_lo) - reach), c.T)
    G = mpf(c.B_B) * mpf(c.B_C) * B_u**3
    b = B_w * G * D * s_1
    gate = B_w * G * (s_1 + max(B_A, mpf(c.s_A)) * D * s_2)
    of_d, of_matrix = _log_of_odd(c.d), _log_of_odd(c.N * c.d)
    squares = [
        (G * D * s_1 * mpf(c.M_w)) ** 2 * of_d,
        (b / mpf(c.B_B) * mpf(c.M_B)) ** 2 * of_matrix,
        (b / mpf(c.B_C) * mpf(c.M_C)) ** 2 * of_matrix,
        (B_w * G * D**2 * s_2 * (B_A + mpf(c.s_A)) / 2) ** 2 * (c.d * c.N) * _log_of_odd(1),
        (gate * (mpf(c.p_hi) - mpf(c.p_lo)) / 2) ** 2 * _log_of_odd(1),
        (B_u * gate * mpf(c.M_q)) ** 2 * of_d,
    ]
    capacity = mpmath.sqrt(mpmath.fsum(mpmath.cbrt(square) for square in squares) ** 3)
    root = mpmath.sqrt(m)
    headroom = max(mpf(0), mpmath.log(b * root / (3 * capacity)))
    attained = mpmath.log(B_w * G * D * attained_sum)
    return {
        "published": mpmath.log(12 * capacity / root * (1 + headroom)),
        "output": attained,
        "lower": attained + _log_of_signs(c.m),
    }


@functools.cache
def _at(digits: int, name: str, number: int) -> mpf:
    if name == "odd":
        return mpmath.log(2 * number + 1)
    half = (number + 1) // 2
    signs = 2 * half * mpmath.binomial(number, half) / mpf(2) ** number
    return mpmath.log(signs / number)


def _log_of_odd(k: int) -> mpf:
    """log(2k + 1)."""
    return _at(mpmath.mp.dps, "odd", k)


def _log_of_signs(m: int) -> mpf:
    """Logarithm of the expected absolute mean of m signs."""
    return _at(mpmath.mp.dps, "signs", m)

"""The published bound, the output bound and the lower bound, each written again in high precision.

The formulas are taken from docs/bounds.md; sums up to T = 40, and up to T = 400 where the ratio is
near 1 and the closed forms lose digits, are added up term by term; the closed forms give the rest.
"""

import math

import mpmath
import pytest
from bounds_reference import SMALL, with_constants
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf

from keelback.bounds import (
    ClassConstants,
    log_output_bound,
    lower_log_rademacher,
    published_log_rademacher,
)

LARGE = with_constants(
    B_u=1e6, s_A=-1e-6, B_A=1e6, B_B=1e6, M_B=2e6, B_C=1e6, M_C=3e6, B_q=1e-3, M_q=1e-2, B_w=1e6,
    M_w=4e6, p_lo=-20.0, p_hi=30.0, T=10**9, m=10**6, d=10**4, N=64,
)  # fmt: skip

CASES = {
    "stable": SMALL,
    "marginal": with_constants(s_A=0.0, T=300),
    "unstable": with_constants(s_A=0.4, T=300),
    "one token": with_constants(T=1),
    "nearly marginal": with_constants(s_A=-1e-12, T=10**6),
    "long and unstable": with_constants(s_A=1e-3, T=10**9),
    "many samples": with_constants(m=10**6 + 1),
    "large": LARGE,
}


def softplus(x: mpf) -> mpf:
    return mpmath.log1p(mpmath.exp(x))


def power_sums(log_ratio: mpf, count: int) -> tuple[mpf, mpf]:
    """sum rho^k and sum k rho^k over k < count."""
    if abs(log_ratio) * count < mpf(10) ** -60:  # to sixty digits
        return mpf(count), mpf(count) * (count - 1) / 2
    rho = mpmath.exp(log_ratio)
    if count <= 40 or (count <= 400 and abs(log_ratio) < mpf(10) ** -10):
        powers = [rho**k for k in range(count)]
        return mpmath.fsum(powers), mpmath.fsum(k * power for k, power in enumerate(powers))
    last = mpmath.exp(log_ratio * count)
    s_1 = (1 - last) / (1 - rho)
    return s_1, rho * (1 - last) / (1 - rho) ** 2 - count * last / (1 - rho)


def exact(c: ClassConstants, digits: int) -> dict[str, mpf]:
    """Logarithms of the published, the output and the lower bound."""
    with mpmath.workdps(digits):
        reach = mpf(c.B_q) * mpf(c.B_u)
        D = softplus(mpf(c.p_hi) + reach)
        slowest = softplus(mpf(c.p_lo) - reach) if c.s_A < 0 else D
        s_1, s_2 = power_sums(mpf(c.s_A) * slowest, c.T)
        G = mpf(c.B_B) * mpf(c.B_C) * mpf(c.B_u) ** 3
        b = c.B_w * G * D * s_1
        gate = c.B_w * G * (s_1 + max(c.B_A, c.s_A) * D * s_2)
        products = [
            (G * D * s_1 * mpf(c.M_w), c.d),
            (b / mpf(c.B_B) * mpf(c.M_B), c.N * c.d),
            (b / mpf(c.B_C) * mpf(c.M_C), c.N * c.d),
            (c.B_w * G * D**2 * s_2 * mpmath.sqrt(c.d * c.N) * (mpf(c.B_A) + mpf(c.s_A)) / 2, 1),
            (gate * (mpf(c.p_hi) - mpf(c.p_lo)) / 2, 1),
            (c.B_u * gate * mpf(c.M_q), c.d),
        ]
        parts = [(x * mpmath.sqrt(mpmath.log(2 * k + 1))) ** (mpf(2) / 3) for x, k in products]
        capacity = mpmath.fsum(parts) ** mpf(1.5)
        headroom = max(mpf(0), mpmath.log(b * mpmath.sqrt(c.m) / (3 * capacity)))
        published = 12 * capacity / mpmath.sqrt(c.m) * (1 + headroom)
        attained = c.B_w * G * D * power_sums(mpf(c.s_A) * D, c.T)[0]
        half = (c.m + 1) // 2
        signs = 2 * half * mpmath.binomial(c.m, half) / mpf(2) ** c.m
        return {
            "published": mpmath.log(published),
            "output": mpmath.log(attained),
            "lower": mpmath.log(attained * signs / c.m),
        }


def computed(c: ClassConstants) -> dict[str, float]:
    return {
        "published": published_log_rademacher(c),
        "output": log_output_bound(c),
        "lower": lower_log_rademacher(c),
    }


@pytest.mark.parametrize("name", CASES)
def test_bounds_agree_with_fifteen_hundred_digits(name: str) -> None:
    found, expected = computed(CASES[name]), exact(CASES[name], 1500)
    for bound, value in expected.items():
        assert found[bound] == pytest.approx(float(value), rel=1e-10, abs=1e-9), bound


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-2, 2), st.floats(0.1, 3), st.floats(-4, 4), st.integers(1, 300), st.integers(1, 999)
)
def test_bounds_agree_with_a_hundred_digits_anywhere(
    s_A: float, scale: float, p_lo: float, T: int, m: int
) -> None:
    c = with_constants(s_A=s_A, B_A=4.0, B_u=scale, p_lo=p_lo, p_hi=p_lo + 1, T=T, m=m)
    expected = {name: float(value) for name, value in exact(c, 100).items()}
    assert computed(c) == pytest.approx(expected, rel=1e-10, abs=1e-9)
    assert math.isfinite(expected["published"])

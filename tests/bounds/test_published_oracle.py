"""The published bound, the output bound and the lower bound, each written again in high precision.

The formulas are taken from docs/studies/bounds.md, by `written_again`.
"""

import math

import mpmath
import pytest
from bounds_reference import SMALL, with_constants
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf
from written_again import bounds_of

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


def exact(c: ClassConstants, digits: int) -> dict[str, mpf]:
    with mpmath.workdps(digits):
        return bounds_of(c)


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

"""S_1 and S_2 against sums in 60 digits, across rho = 1 and at the ends of the range."""

import math

import mpmath
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelback.bounds import log_geometric_sum, mean_index

LOG_RATIOS = [
    s * x for x in (1e-300, 1e-18, 1e-12, 1e-9, 1e-7, 1e-5, 1e-3, 0.05, 0.2, 0.99, 1.01, 5.0, 60.0)
    for s in (-1, 1)
]  # fmt: skip


def exact_sums(log_ratio: float, count: int) -> tuple[mpmath.mpf, mpmath.mpf]:
    with mpmath.workdps(60):
        rho = mpmath.exp(mpmath.mpf(log_ratio))
        powers = [rho**k for k in range(count)]
        return mpmath.fsum(powers), mpmath.fsum(k * power for k, power in enumerate(powers))


@pytest.mark.parametrize("log_ratio", [0.0, *LOG_RATIOS])
@pytest.mark.parametrize("count", [1, 2, 3, 17, 400])
def test_sums_agree_with_sixty_digits(log_ratio: float, count: int) -> None:
    s_1, s_2 = exact_sums(log_ratio, count)
    assert log_geometric_sum(log_ratio, count) == pytest.approx(
        float(mpmath.log(s_1)), rel=1e-12, abs=1e-12
    )
    assert mean_index(log_ratio, count) == pytest.approx(float(s_2 / s_1), rel=1e-10, abs=1e-300)


@pytest.mark.parametrize("log_ratio", [0.0, *LOG_RATIOS])
@pytest.mark.parametrize("count", [10**5, 10**9])
def test_long_sums_agree_with_the_closed_form_in_high_precision(
    log_ratio: float, count: int
) -> None:
    with mpmath.workdps(700):
        rho = mpmath.exp(mpmath.mpf(log_ratio))
        if log_ratio == 0:
            s_1, s_2 = mpmath.mpf(count), mpmath.mpf(count) * (count - 1) / 2
        else:
            power = mpmath.exp(mpmath.mpf(log_ratio) * count)
            s_1 = (1 - power) / (1 - rho)
            s_2 = rho * (1 - power) / (1 - rho) ** 2 - count * power / (1 - rho)
        expected_log, expected_mean = float(mpmath.log(s_1)), float(s_2 / s_1)
    assert log_geometric_sum(log_ratio, count) == pytest.approx(expected_log, rel=1e-12)
    assert mean_index(log_ratio, count) == pytest.approx(expected_mean, rel=1e-10)


def test_printed_sign_of_the_last_denominator_is_not_the_sum() -> None:
    rho, count = 0.5, 4
    direct = sum(k * rho**k for k in range(count))
    first = rho * (1 - rho**count) / (1 - rho) ** 2
    assert first - count * rho**count / (1 - rho) == pytest.approx(direct)
    assert first - count * rho**count / (rho - 1) != pytest.approx(direct)


@given(st.floats(-50, 50), st.integers(1, 10**9))
def test_mean_index_stays_between_zero_and_the_last_index(log_ratio: float, count: int) -> None:
    assert 0 <= mean_index(log_ratio, count) <= (count - 1) * (1 + 1e-12)
    assert math.isfinite(log_geometric_sum(log_ratio, count))


@given(st.floats(-30, 30), st.floats(0, 1), st.integers(1, 10**6))
def test_both_grow_with_rho(log_ratio: float, step: float, count: int) -> None:
    higher = log_ratio + step
    tolerance = 1e-9
    assert log_geometric_sum(higher, count) >= log_geometric_sum(log_ratio, count) - tolerance
    assert mean_index(higher, count) >= mean_index(log_ratio, count) * (1 - tolerance)


def test_no_overflow_at_the_far_end() -> None:
    assert log_geometric_sum(1e18, 10**9) == pytest.approx(1e18 * (10**9 - 1))
    assert mean_index(1e18, 10**9) == pytest.approx(10**9 - 1)
    assert log_geometric_sum(-1e18, 10**9) == 0
    assert mean_index(-1e18, 10**9) == 0

"""The inequalities that the sharpened bound stands on: random, adversarial and limiting steps."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit

from keelback.bounds import StepSums


def tails(delta: np.ndarray) -> np.ndarray:
    """tau_t = sum of the steps after t."""
    return np.concatenate([np.cumsum(delta[::-1])[::-1][1:], [0.0]])


def worst_relative(tau: np.ndarray, s_A: float) -> np.ndarray:
    """max over a <= min(s_A, 0) of |a| tau e^{a tau}."""
    s = max(-s_A, 0.0)
    beyond = np.maximum(s * tau, 1.0)
    return np.where(tau > 0, beyond * np.exp(-beyond), 0.0)


def output_sum(delta: np.ndarray, s_A: float) -> float:
    return float(np.sum(delta * np.exp(s_A * tails(delta))))


def decaying_sum(delta: np.ndarray, s_A: float) -> float:
    return float(np.sum(delta * worst_relative(tails(delta), s_A)))


def absolute_sum(delta: np.ndarray, s_A: float) -> float:
    tau = tails(delta)
    return float(np.sum(delta * tau * np.exp(s_A * tau)))


def limits(s_A: float, D: float, T: int) -> tuple[float, float, float]:
    sums = StepSums.of(s_A, math.log(D), T)
    s1 = math.exp(sums.log_output)
    return s1, s1 * math.exp(sums.log_decaying), s1 * math.exp(sums.log_absolute)


steps = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60)


@settings(max_examples=400)
@given(steps, st.floats(-20, 2), st.floats(1e-3, 10))
def test_sums_stay_below_their_limits(fractions: list[float], s_A: float, D: float) -> None:
    delta = D * np.array(fractions)
    s1, s2, s3 = limits(s_A, D, len(delta))
    slack = 1 + 1e-12
    assert output_sum(delta, s_A) <= s1 * slack
    assert decaying_sum(delta, s_A) <= s2 * slack
    assert absolute_sum(delta, s_A) <= s3 * slack


@pytest.mark.parametrize("s_A", [-3.0, -0.4, -0.02, 0.0, 0.05])
@pytest.mark.parametrize("T", [2, 9, 25])
def test_sums_stay_below_their_limits_under_optimisation(s_A: float, T: int) -> None:
    D = 1.7
    caps = limits(s_A, D, T)
    generator = np.random.default_rng(T)
    for measure, cap in zip((output_sum, decaying_sum, absolute_sum), caps, strict=True):
        best = 0.0
        for _ in range(2):
            start = generator.normal(2, 2, T)
            found = minimize(
                lambda x, measure=measure: -measure(D * expit(x), s_A),
                start,
                method="L-BFGS-B",
                options={"maxiter": 60},
            )
            best = max(best, -found.fun)
        assert best <= cap * (1 + 1e-12)
        assert best >= 0.2 * cap


@pytest.mark.parametrize("s_A", [-3.0, -0.1, 0.0, 0.2])
@pytest.mark.parametrize("T", [1, 2, 50])
def test_constant_largest_steps_attain_the_output_sum(s_A: float, T: int) -> None:
    delta = np.full(T, 0.8)
    assert output_sum(delta, s_A) == pytest.approx(limits(s_A, 0.8, T)[0], rel=1e-12)


def test_long_output_sum_is_the_closed_form_of_the_spec() -> None:
    s, D = 0.3, 0.7
    s1, s2, _ = limits(-s, D, 10**9)
    assert s1 == pytest.approx(D / (1 - math.exp(-s * D)), rel=1e-12)
    assert s2 == pytest.approx((3 / s + D) / math.e, rel=1e-12)


def test_relative_limit_is_nearly_attained() -> None:
    """Fine steps up to 1/s and one mesh-length step there reach the limit as D -> 0."""
    s, D, T = 1.0, 1e-3, 20_000
    delta = np.full(T, D)
    assert decaying_sum(delta, -s) / limits(-s, D, T)[1] > 0.999


def test_one_token_moves_nothing_through_the_exponents() -> None:
    sums = StepSums.of(-0.5, 0.0, 1)
    assert sums.log_output == pytest.approx(0.0, abs=1e-15)
    assert sums.log_decaying == sums.log_absolute == sums.log_relative == -math.inf


@pytest.mark.parametrize("T", [1, 2, 100, 10**9])
@pytest.mark.parametrize("log_D", [-3.0, 0.0, 4.0])
def test_all_sums_are_continuous_at_zero_abscissa(log_D: float, T: int) -> None:
    middle = StepSums.of(0.0, log_D, T)
    for s_A in (-1e-14 / T, 1e-14 / T):
        near = StepSums.of(s_A, log_D, T)
        for name in ("log_output", "log_decaying", "log_absolute", "log_relative"):
            assert getattr(near, name) == pytest.approx(getattr(middle, name), abs=1e-9)


@settings(max_examples=200)
@given(
    st.floats(-20, 5), st.floats(0, 1), st.floats(-3, 3), st.floats(0, 1), st.integers(1, 10**6),
    st.integers(0, 10**6),
)  # fmt: skip
def test_all_sums_grow_with_every_constant(
    s_A: float, more_s: float, log_D: float, more_D: float, T: int, more_T: int
) -> None:
    small, large = StepSums.of(s_A, log_D, T), StepSums.of(s_A + more_s, log_D + more_D, T + more_T)
    assert large.log_output >= small.log_output - 1e-9
    for name in ("log_decaying", "log_absolute", "log_relative"):
        before = getattr(small, name) + small.log_output
        assert getattr(large, name) + large.log_output >= before - 1e-9

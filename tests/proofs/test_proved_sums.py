"""The sums over steps that Coq speaks of are those that the code computes (docs/bounds.md)."""

import math

import pytest
from coq_bounds import (
    absolute_sum,
    decaying_sum,
    excess,
    geometric_sum,
    index_sum,
    output_sum,
    tau,
    total,
    worst_decay,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from keelback.bounds import StepSums, log_geometric_sum, mean_index

ABSCISSAS = st.one_of(st.just(0.0), st.floats(-3, 3), st.floats(-1e-9, 1e-9))
STEPS = st.floats(1e-3, 5)
LENGTHS = st.integers(1, 60)


def _close(found: float, exact: object, what: str = "") -> None:
    assert found == pytest.approx(float(exact), rel=1e-9, abs=1e-12), what


@given(ABSCISSAS, STEPS, LENGTHS)
@settings(max_examples=150, deadline=None)
def test_step_sums_are_those_of_the_code(s_A: float, D: float, T: int) -> None:
    sums = StepSums.of(s_A, math.log(D), T)
    a, step = mpf(s_A), mp.exp(mpf(math.log(D)))
    s1, s2, s3 = (sum_of(a, step, T) for sum_of in (output_sum, decaying_sum, absolute_sum))
    _close(sums.log_output, mp.log(s1), "S1")
    if s_A == 0:
        _close(math.exp(sums.log_output), T * step, "S1, marginal")
    elif s_A < 0:
        _close(math.exp(sums.log_output), step * (mp.expm1(a * T * step) / mp.expm1(a * step)))
    if T == 1:
        assert sums.log_decaying == sums.log_absolute == sums.log_relative == -math.inf
        return
    _close(sums.log_decaying, mp.log(s2 / s1), "S2")
    _close(sums.log_absolute, mp.log(s3 / s1), "S3")
    _close(sums.log_relative, mp.log((s2 + max(a, 0) * s3) / s1), "S2 + s_A^+ S3")


@given(ABSCISSAS, STEPS, st.lists(st.floats(1e-3, 1), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_lemma_1_holds_with_equality_at_constant_steps_alone(
    s_A: float, D: float, shares: list[float]
) -> None:
    a, D = mpf(s_A), mpf(D)
    T = len(shares)

    def weighted(delta: list[mpf]) -> mpf:
        return total(T, lambda t: delta[t] * mp.exp(a * tau(T, delta, t)))

    bound = output_sum(a, D, T)
    smaller = weighted([share * D for share in shares])
    assert smaller <= bound * (1 + mpf(10) ** -35)
    if min(shares) < 1:
        assert smaller < bound
    assert abs(weighted([D] * T) - bound) <= bound * mpf(10) ** -30
    assert math.log(smaller) <= StepSums.of(s_A, math.log(D), T).log_output + 1e-9


@given(ABSCISSAS, STEPS, st.lists(st.floats(1e-3, 1), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_lemmas_2_and_3_hold(s_A: float, D: float, shares: list[float]) -> None:
    a, step = mpf(s_A), mpf(D)
    T = len(shares)
    delta = [share * step for share in shares]
    decaying = total(T, lambda t: delta[t] * worst_decay(a, tau(T, delta, t)))
    absolute = total(T, lambda t: delta[t] * tau(T, delta, t) * mp.exp(a * tau(T, delta, t)))
    assert decaying <= decaying_sum(a, step, T)
    assert absolute <= absolute_sum(a, step, T) * (1 + mpf(10) ** -35)
    ceiling = min(a, mpf(0))
    for x in delta:
        best = -1 / x if -1 / x < ceiling else ceiling
        _close(float(-best * x * mp.exp(best * x)), worst_decay(a, x), "the maximum is attained")
        for less in (best - 1, best * 2 - mpf("0.1")):
            assert -less * x * mp.exp(less * x) <= worst_decay(a, x)


@pytest.mark.parametrize("s_A", [-1.5, -0.1, -1e-3])
@pytest.mark.parametrize("D", [0.01, 0.7, 3.0])
def test_limits_are_those_of_the_code(s_A: float, D: float) -> None:
    long = StepSums.of(s_A, math.log(D), 10**12)
    s1 = math.exp(long.log_output)
    s, e = -s_A, math.e
    _close(s1, D / -math.expm1(s_A * D))
    assert s1 <= 1 / s + D
    _close(s1 * math.exp(long.log_decaying), (3 / s + D) / e)
    _close(s1 * math.exp(long.log_absolute), 1 / s**2 + D / (e * s))
    assert float(mp.quad(lambda x: worst_decay(mpf(s_A), x), [0, 1 / s, 60 / s])) == pytest.approx(
        3 / (e * s), rel=1e-9
    )
    for unstable in (0.0, s):
        one, two = (StepSums.of(unstable, math.log(D), T).log_output for T in (10**3, 10**6))
        assert two > one + math.log(900)
    marginal = StepSums.of(0.0, math.log(D), 50)
    for near in (-1e-10, 1e-10):
        beside = StepSums.of(near, math.log(D), 50)
        assert beside.log_output == pytest.approx(marginal.log_output, abs=1e-7)
        assert beside.log_decaying == pytest.approx(math.log(49 / (50 * e)), abs=1e-7)
        assert beside.log_absolute == pytest.approx(math.log(D * 49 / 2), abs=1e-7)


@given(st.one_of(st.floats(-5, 2), st.floats(-1e-6, 1e-6)), st.integers(1, 80))
@settings(max_examples=150, deadline=None)
def test_geometric_sums_are_those_of_the_code(log_ratio: float, T: int) -> None:
    y = mpf(log_ratio)
    rho = mp.exp(y)
    _close(log_geometric_sum(log_ratio, T), mp.log(geometric_sum(rho, T)))
    _close(mean_index(log_ratio, T), index_sum(rho, T) / geometric_sum(rho, T))
    if abs(log_ratio) > 1e-4:
        ratio = T * excess(T * y) - excess(y)
        _close(mean_index(log_ratio, T), ratio)
        closed = rho * (1 - rho**T) / (1 - rho) ** 2 - T * rho**T / (1 - rho)
        _close(float(index_sum(rho, T)), closed)
    assert mean_index(0.0, T) == (T - 1) / 2
    _close(float(output_sum(y, mpf(1), T)), geometric_sum(rho, T))
    if log_ratio >= 0:
        _close(float(absolute_sum(y, mpf(1), T)), index_sum(rho, T))


@given(st.floats(0.05, 0.95) | st.floats(1.05, 2), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_the_misprinted_closed_form_is_not_the_sum(rho: float, T: int) -> None:
    with mp.workdps(200):
        r = mpf(rho)
        printed = r * (1 - r**T) / (1 - r) ** 2 - T * r**T / (r - 1)
        apart = 2 * T * r**T / (1 - r)
        assert apart != 0
        assert abs(printed - index_sum(r, T) - apart) < abs(apart) * mpf(10) ** -20

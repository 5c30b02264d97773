"""Losses, kl inversion and certificates against oracles, and a certificate put to the test."""

import dataclasses
import math

import mpmath
import numpy as np
import pytest
from bounds_reference import SMALL
from hypothesis import example, given
from hypothesis import strategies as st

from keelback.bounds import (
    confidence_term,
    covering_risk,
    kl_inverse,
    log_covering_gap,
    log_output_bound,
    log_risk_gap,
    loss_complexity_factor,
)
from keelback.errors import InputError


def bernoulli_kl(q: mpmath.mpf, p: mpmath.mpf) -> mpmath.mpf:
    def term(a: mpmath.mpf, b: mpmath.mpf) -> mpmath.mpf:
        return a * mpmath.log(a / b) if a else mpmath.mpf(0)

    return term(q, p) + term(1 - q, 1 - p)


@given(st.floats(0, 1, exclude_max=True), st.floats(1e-8, 20))
@example(0.0, 19.826416156409103)  # One unit in the last place below would be too little.
def test_kl_inverse_meets_the_budget_in_high_precision(mean: float, budget: float) -> None:
    p = kl_inverse(mean, budget)
    assert mean <= p <= 1
    with mpmath.workdps(50):
        q = mpmath.mpf(mean)
        if p < 1:
            assert bernoulli_kl(q, mpmath.mpf(p)) >= budget * (1 - 1e-9)
        less = q + (mpmath.mpf(p) - q) * mpmath.mpf("0.999")
        if less < 1:
            assert bernoulli_kl(q, less) <= budget * (1 + 1e-9)


@pytest.mark.parametrize(
    ("mean", "budget", "expected"),
    [(0.0, 0.0, 0.0), (0.3, 0.0, 0.3), (1.0, 0.1, 1.0), (0.2, math.inf, 1.0), (0.0, 5.0, None)],
)
def test_kl_inverse_at_its_ends(mean: float, budget: float, expected: float | None) -> None:
    assert kl_inverse(mean, budget) == pytest.approx(
        1 - math.exp(-budget) if expected is None else expected
    )


@pytest.mark.parametrize(
    ("mean", "budget"), [(-0.1, 1.0), (1.1, 1.0), (0.5, -1.0), (0.5, math.nan)]
)
def test_kl_inverse_refuses_what_is_no_mean_or_budget(mean: float, budget: float) -> None:
    with pytest.raises(InputError, match="kl inversion"):
        kl_inverse(mean, budget)


def margin_ramp(logits: np.ndarray, label: int, margin: float) -> float:
    other = np.max(np.delete(logits, label))
    return float(np.clip(1 - (logits[label] - other) / margin, 0, 1))


def test_margin_ramp_is_as_lipschitz_as_the_factor_says() -> None:
    generator = np.random.default_rng(0)
    margin, steepest = 0.7, 0.0
    for _ in range(4000):
        logits = generator.normal(size=4)
        moved = logits + 1e-4 * generator.normal(size=4)
        change = abs(margin_ramp(moved, 1, margin) - margin_ramp(logits, 1, margin))
        steepest = max(steepest, change / np.linalg.norm(moved - logits))
    assert 0.9 * math.sqrt(2) / margin <= steepest <= math.sqrt(2) / margin * (1 + 1e-6)
    factor = loss_complexity_factor(margin, 4)
    assert factor == pytest.approx(math.sqrt(2) * 4 * math.sqrt(2) / margin)
    assert loss_complexity_factor(margin) == pytest.approx(1 / margin)


def test_risk_gap_is_the_theorem() -> None:
    gap = math.exp(log_risk_gap(math.log(0.05), 1000, margin=0.5, delta=0.1))
    assert gap == pytest.approx(2 * 0.05 / 0.5 + 3 * math.sqrt(math.log(20) / 2000))
    assert log_risk_gap(1e20, 10, margin=1.0, delta=0.1) == pytest.approx(1e20)
    nothing = log_risk_gap(-math.inf, 1000, margin=1.0, delta=0.1)
    assert math.exp(nothing) == pytest.approx(confidence_term(1000, 0.1))


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_delta_outside_the_unit_interval_is_refused(delta: float) -> None:
    with pytest.raises(InputError, match="delta"):
        confidence_term(10, delta)
    with pytest.raises(InputError, match="delta"):
        log_covering_gap(SMALL, margin=1.0, delta=delta)
    with pytest.raises(InputError, match="delta"):
        covering_risk(0.1, SMALL, margin=1.0, delta=delta)


@pytest.mark.parametrize("margin", [0.0, -1.0, math.inf, math.nan])
def test_margins_must_be_positive_and_finite(margin: float) -> None:
    for certificate in (
        lambda: log_risk_gap(0.0, 10, margin=margin, delta=0.1),
        lambda: log_covering_gap(SMALL, margin=margin, delta=0.1),
        lambda: covering_risk(0.1, SMALL, margin=margin, delta=0.1),
    ):
        with pytest.raises(InputError, match="margin"):
            certificate()


def test_other_arguments_outside_their_domain_are_refused() -> None:
    with pytest.raises(InputError, match="classes"):
        loss_complexity_factor(1.0, 1)
    with pytest.raises(InputError, match="m = 0"):
        confidence_term(0, 0.1)
    with pytest.raises(InputError, match="empirical_risk"):
        covering_risk(1.5, SMALL, margin=1.0, delta=0.1)
    with pytest.raises(InputError, match="vocab_size"):
        log_covering_gap(SMALL, margin=1.0, delta=0.1, vocab_size=-1)


def test_covering_gap_falls_at_the_parametric_rate() -> None:
    c = dataclasses.replace(SMALL, m=10**7)
    gap = math.exp(log_covering_gap(c, margin=1.0, delta=0.05))
    k = c.d * c.N + 2 * c.N * c.d + 2 * c.d + 1
    parametric = math.sqrt(k * math.log(c.m) / c.m)
    assert 0.3 * parametric < gap < 3 * parametric


def test_covering_gap_sees_only_the_logarithm_of_an_unstable_output() -> None:
    short = dataclasses.replace(SMALL, s_A=0.5, T=100, m=10**6)
    long = dataclasses.replace(short, T=10_000)
    assert log_output_bound(long) - log_output_bound(short) > 5000
    gaps = [math.exp(log_covering_gap(c, margin=1.0, delta=0.05)) for c in (short, long)]
    assert gaps[0] < gaps[1] < 10.5 * gaps[0]


def test_kl_covering_is_below_hoeffding_where_the_empirical_risk_is_small() -> None:
    c = dataclasses.replace(SMALL, m=20_000)
    gap = math.exp(log_covering_gap(c, margin=1.0, delta=0.05))
    assert covering_risk(0.0, c, margin=1.0, delta=0.05) < gap
    risks = [covering_risk(r, c, margin=1.0, delta=0.05) for r in (0.0, 0.1, 0.4, 1.0)]
    assert risks == sorted(risks)
    assert risks[-1] == 1


@pytest.mark.parametrize("classes", [2, 10])
def test_covering_certificates_tighten_with_samples_and_margin(classes: int) -> None:
    def gap(m: int, margin: float, vocab_size: int = 0) -> float:
        c = dataclasses.replace(SMALL, m=m)
        return log_covering_gap(
            c, margin=margin, delta=0.05, classes=classes, vocab_size=vocab_size
        )

    assert gap(10_000, 1.0) < gap(1000, 1.0)
    assert gap(1000, 2.0) < gap(1000, 1.0)
    assert gap(1000, 1.0) < gap(1000, 1.0, vocab_size=5)

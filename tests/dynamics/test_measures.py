import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from keelback.dynamics import (
    GaussianNoise,
    Locality,
    MajorityVoting,
    bayes_error,
    conditions,
    cosines,
    fit_power_law,
    gate_openness,
    median_with_interval,
    predicted,
    projections,
    sample_patterns,
    share_with_interval,
)
from keelback.dynamics.patterns import stream
from keelback.errors import InputError


def test_projections_and_cosines_in_any_basis():
    rng = np.random.default_rng(0)
    w = rng.normal(size=6)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    plain, turned = projections(w), projections(basis @ w, basis)
    assert plain.o_plus == w[0]
    assert plain.o_minus == w[1]
    np.testing.assert_allclose(turned.classes, plain.classes)
    np.testing.assert_allclose(turned.irrelevant, plain.irrelevant)
    angles = cosines(w)
    assert sum(c**2 for c in (*angles.classes, *angles.irrelevant)) == pytest.approx(1)
    assert cosines(np.zeros(6)).classes == [0.0, 0.0]
    assert cosines(np.array([3e30, 4e30, 0.0], dtype=np.float32)).classes == pytest.approx(
        [0.6, 0.8]
    )
    assert len(projections(w, classes=3).irrelevant) == 3
    with pytest.raises(InputError, match="6 x 6 basis"):
        projections(w, np.eye(5))


def test_gate_openness_by_kind_of_token():
    features = np.array([[0, 1, 2], [1, 1, 3]])
    gates = np.array([[0.9, 0.1, 0.2], [0.5, 0.7, 0.4]])
    found = gate_openness(gates, features, np.array([0, 1]))
    assert found.own == pytest.approx(0.7)
    assert found.other == pytest.approx(0.1)
    assert found.irrelevant == pytest.approx(0.3)
    assert gate_openness(gates, features * 0, np.array([0, 0])).irrelevant is None


def test_predictions_are_the_rates_of_the_theorems():
    majority = predicted(MajorityVoting(0.4, 0.1, 30, 32), step_size=0.5, epochs=400)
    assert majority.epochs == pytest.approx(1 / (0.5 * 0.09))
    assert majority.samples == pytest.approx(32 / (0.25 * 0.09))
    assert majority.class_projection == pytest.approx(0.5 * 400 / (8 * 30**2) * (12 - 3) ** 2)
    locality = predicted(Locality(2, 5, 20, 16), step_size=4.0, epochs=10)
    assert locality.epochs == pytest.approx(400 / (4 * (1 / 4 - 1 / 32)))
    assert locality.samples == pytest.approx(400 * 16 / (4 * (1 / 4 - 1 / 32)) ** 2)
    assert locality.class_projection is None
    with pytest.raises(InputError, match="two classes"):
        predicted(MajorityVoting(0.4, 0.1, 30, 32, classes=3), 0.5, 1)


def test_conditions_of_the_papers_own_setting():
    found = conditions(
        MajorityVoting(0.4, 0.1, 30, 32),
        width=50,
        noise=0.02,
        samples=400,
        step_size=0.5,
        epochs=400,
    )
    assert {c.name: c.holds for c in found} == {
        "width": False,
        "noise": True,
        "samples": False,
        "epochs": True,
    }
    found = conditions(
        Locality(1, 5, 20, 4),
        width=50,
        noise=0.3,
        samples=None,
        step_size=10.0,
        epochs=400,
    )
    assert {c.name: c.holds for c in found} == {
        "width": True,
        "noise": False,
        "epochs": True,
        "near": False,
    }
    with pytest.raises(InputError, match="at least 2"):
        conditions(
            MajorityVoting(0.4, 0.1, 30, 32),
            width=50,
            noise=0.1,
            samples=4,
            step_size=1.0,
            epochs=4,
            confidence=1.0,
        )


def exact_error(pattern, noise, draws, seed):
    """Monte Carlo error of the Bayes rule itself: the likelihoods summed over all arrangements."""
    arrangements = {0: set(), 1: set()}
    for features in itertools.product(range(pattern.dim), repeat=pattern.length):
        row = np.array(features)
        if isinstance(pattern, Locality):
            plus, minus = np.flatnonzero(row == 0), np.flatnonzero(row == 1)
            if len(plus) == len(minus) == 2:
                gaps = (plus[1] - plus[0], minus[1] - minus[0])
                if gaps == (pattern.near, pattern.far):
                    arrangements[0].add(features)
                if gaps == (pattern.far, pattern.near):
                    arrangements[1].add(features)
        else:
            counts = ((row == 0).sum(), (row == 1).sum())
            if counts == (pattern.own_tokens, pattern.other_tokens):
                arrangements[0].add(features)
            if counts == (pattern.other_tokens, pattern.own_tokens):
                arrangements[1].add(features)
    batch = sample_patterns(pattern, draws, GaussianNoise(noise), stream(seed, 0))
    inner = batch.tokens.double() / noise**2
    scores = []
    for label in (0, 1):
        rows = torch.tensor(sorted(arrangements[label]))
        onehot = torch.nn.functional.one_hot(rows, pattern.dim).double()
        scores.append(torch.logsumexp(torch.einsum("nld,ald->na", inner, onehot), 1))
    wrong = ((scores[1] - scores[0]) > 0) != (batch.labels == 1)
    return wrong.double().mean().item()


@pytest.mark.parametrize(
    "pattern",
    [
        MajorityVoting(0.6, 0.2, 5, 4),
        MajorityVoting(0.4, 0.0, 5, 3),
        MajorityVoting(1.0, 0.0, 2, 3),
        Locality(1, 3, 5, 4),
        Locality(1, 2, 5, 3),
    ],
)
@pytest.mark.parametrize("noise", [0.35, 0.6])
def test_bayes_bounds_hold_the_error_of_the_bayes_rule(pattern, noise):
    found = bayes_error(pattern, noise)
    measured = exact_error(pattern, noise, 20_000, seed=1)
    slack = 4 * math.sqrt(measured / 20_000) + 1e-4
    assert found.lower <= measured + slack
    assert measured <= found.upper + slack
    assert found.lower > 0


def test_bayes_bounds_meet_where_noise_is_small():
    found = bayes_error(MajorityVoting(0.4, 0.1, 30, 32), 0.02)
    assert found.log_lower == pytest.approx(norm.logsf((9 / 2) ** 0.5 / 0.02))
    assert 0.99 < found.log_upper / found.log_lower <= 1
    assert found.lower == 0
    assert bayes_error(Locality(2, 6, 20, 8), 0.0).log_upper == -math.inf
    assert bayes_error(MajorityVoting(0.4, 0.1, 10, 8), 1e6).upper == 0.5


def test_bayes_error_refuses_what_it_cannot_bound():
    with pytest.raises(InputError, match=">= 0"):
        bayes_error(MajorityVoting(0.4, 0.1, 10, 8), -1.0)
    with pytest.raises(InputError, match="two classes"):
        bayes_error(MajorityVoting(0.4, 0.1, 10, 8, classes=3), 0.1)


@settings(max_examples=30, deadline=None)
@given(exponent=st.floats(-3, 3), scale=st.floats(0.1, 100))
def test_exact_power_laws_are_recovered(exponent, scale):
    x = [0.1, 0.2, 0.5, 1.0]
    law = fit_power_law(x, [np.full(5, scale * v**exponent) for v in x], resamples=50)
    assert law.exponent.value == pytest.approx(exponent, abs=1e-9)
    assert law.exponent.low == pytest.approx(law.exponent.high, abs=1e-9)
    assert law.at(0.3) == pytest.approx(scale * 0.3**exponent)


def test_intervals_cover_the_exponent():
    """Of 60 fits to noisy trials about 95% of the intervals hold the truth."""
    rng = np.random.default_rng(0)
    x = [0.1, 0.2, 0.4, 0.8]
    held = 0
    for _ in range(60):
        trials = [v**-2 * rng.lognormal(0, 0.5, 25) for v in x]
        interval = fit_power_law(x, trials, resamples=300).exponent
        held += interval.low <= -2 <= interval.high
    assert 50 <= held <= 60


def test_censored_trials_are_kept():
    law = fit_power_law(
        [1.0, 2.0, 4.0],
        [np.array([1.0, 1.0, np.inf]), np.array([2.0] * 3), np.array([np.inf, np.inf, 1.0])],
        resamples=200,
    )
    assert law.points == 2
    assert law.censored_points == 1
    assert law.exponent.value == pytest.approx(1.0)
    found = median_with_interval(np.array([1.0, 2.0, np.inf]))
    assert found.value == 2
    assert found.high == np.inf
    assert median_with_interval(np.full(4, np.inf)).value == np.inf
    assert fit_power_law([1.0, 2.0], [np.full(3, np.inf)] * 2) is None


def test_success_shares():
    none, all_, half = (share_with_interval(k, 20) for k in (0, 20, 10))
    assert none.low == 0
    assert 0.1 < none.high < 0.2
    assert all_.high == 1
    assert half.low == pytest.approx(1 - half.high)
    assert half.low == pytest.approx(0.2993, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: median_with_interval(np.array([])), "empty"),
        (lambda: median_with_interval(np.array([np.nan])), "not a number"),
        (lambda: share_with_interval(0, 0), "empty"),
        (lambda: share_with_interval(3, 2), "impossible"),
        (lambda: fit_power_law([1.0, 2.0], [np.ones(2), np.array([])]), "empty"),
        (lambda: fit_power_law([1.0], [np.ones(2)] * 2), "1 points have 2 sets"),
        (lambda: fit_power_law([0.0, 1.0], [np.ones(2)] * 2), "above zero"),
        (lambda: fit_power_law([1.0, 2.0], [np.zeros(2)] * 2), "above zero"),
    ],
)
def test_bad_trials_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()

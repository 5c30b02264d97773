"""The two modes of locality, point by point against gradient descent on the exact population."""

import numpy as np
import pytest
import torch

from keelback.dynamics import (
    GaussianNoise,
    Locality,
    TwoModes,
    active_share,
    best_two_mode_accuracy,
)
from keelback.dynamics.descent import GatedTraining, train_gated
from keelback.dynamics.descent.batch import initial_weights
from keelback.errors import InputError


def small_start(near, length=20, dim=16, far=12, **changes):
    options = {"symmetry": "readout", "epochs": 6 * 10**5, "target": None, "step_size": 1.0}
    options |= {"source": "population", "noise": GaussianNoise(0.0), "readout_scale": 1e-3}
    return GatedTraining(Locality(near, far, length, dim), **(options | changes))


def modes_of(training):
    active = active_share(initial_weights(training)[0])
    return TwoModes(training.pattern, training.eta_gate, training.eta_out, active)


@pytest.mark.parametrize("near", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "steps", [{}, {"gate_step_size": 0.01}, {"gate_step_size": 10.0, "dim": 200, "length": 40}]
)
def test_the_loss_falls_as_measured(near, steps):
    """Down to where the first sequences leave the hinge; epochs are measured to 2 per cent."""
    training = small_start(near, **steps)
    history, modes = train_gated([training])[0], modes_of(training)
    compared = 0
    for loss in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5):
        reached = np.flatnonzero(history.test_loss <= loss)
        expected = modes.epochs(loss)
        if len(reached) and expected is not None:
            assert history.epochs[reached[0]] == pytest.approx(expected, rel=0.04)
            compared += 1
    assert compared >= 3


def test_the_gate_closes_as_measured():
    training = small_start(3)
    history, course = train_gated([training])[0], modes_of(training).course
    inside = (history.epochs < course.steps[-1]) & (history.epochs > 1000)
    expected = np.interp(history.epochs[inside], course.steps, course.u)
    np.testing.assert_allclose(-history.gating[inside][:, 2], expected, rtol=0.05, atol=0.01)


def test_the_read_outs_need_not_be_symmetric_where_steps_are_small():
    training = small_start(2, symmetry="none", step_size=0.25, epochs=10**5)
    history, modes = train_gated([training])[0], modes_of(training)
    place = int(np.argmax(history.test_loss <= 0.8))
    assert history.epochs[place] == pytest.approx(modes.epochs(0.8), rel=0.04)


def test_a_frozen_gate_gives_the_square_of_the_gap():
    """Exponent -2, where the theorem has -1: also what is measured, not only what is derived."""
    gaps, measured = [], []
    for near in (2, 3, 4):
        training = small_start(near, gate_step_size=1e-9, target=0.9)
        history, modes = train_gated([training])[0], modes_of(training)
        assert modes.epochs(0.9) == pytest.approx(modes.frozen_epochs(0.9), rel=1e-3)
        assert history.epochs_to_target == pytest.approx(modes.frozen_epochs(0.9), rel=0.04)
        gaps.append(training.pattern.gap)
        measured.append(history.epochs_to_target)
    slope = np.polyfit(np.log(gaps), np.log(measured), 1)[0]
    assert slope == pytest.approx(-2, abs=0.03)


def test_the_gate_comes_first_with_exponent_one():
    """T_gate (near - 1) gap is the same for all separations, and infinite for near = 1."""
    found = [
        TwoModes(pattern, 1.0, 2.0).gate_epochs * (pattern.near - 1) * pattern.gap
        for pattern in (Locality(near, 30, 60, 50) for near in (2, 5, 12))
    ]
    np.testing.assert_allclose(found, found[0])
    assert TwoModes(Locality(1, 30, 60, 50), 1.0, 2.0).gate_epochs == np.inf


def test_many_features_keep_the_gate_at_rest_with_one_step_size():
    """The docs' smallest example: L = 6, where the theorem's exponent is -1."""
    patterns = [Locality(near, 5, 6, 10**4) for near in (1, 2, 3)]
    epochs = [TwoModes(pattern, 1.0, 1.0).epochs(0.8) for pattern in patterns]
    slope = np.polyfit(np.log([pattern.gap for pattern in patterns]), np.log(epochs), 1)[0]
    assert slope == pytest.approx(-1.86, abs=0.01)


def test_where_the_hinge_is_left_the_modes_end():
    modes = TwoModes(Locality(5, 12, 20, 16), 1.0, 1.0)
    assert modes.epochs(0.1) is None
    assert modes.epochs(modes.course.loss[-1] + 0.01) == pytest.approx(modes.course.steps[-1], 0.1)
    with pytest.raises(InputError, match="below it"):
        modes.epochs(1.0)


def test_the_slope_of_the_signal():
    modes = TwoModes(Locality(4, 9, 14, 8), 1.0, 1.0)
    u, step = np.linspace(-1, 3, 9), 1e-6
    below, above = modes.signal(u - step)[0], modes.signal(u + step)[0]
    np.testing.assert_allclose(modes.signal(u)[1], (above - below) / (2 * step), rtol=1e-6)
    apart = Locality(2, 30, 400, 8)
    assert TwoModes(apart, 1.0, 1.0).signal(0.0)[0] == pytest.approx(apart.gap / 2, rel=1e-6)


def test_shares_of_units_that_carry_a_read_out():
    W_O = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]])
    assert active_share(W_O) == 3 / 4
    start = initial_weights(small_start(2, width=2000))[0]
    assert active_share(start) == pytest.approx(0.5, abs=0.05)


def test_noise_bounds_what_two_modes_can_do():
    pattern = Locality(3, 9, 14, 8)
    grid = {"u": (0.0, 1.0, 2.0), "class_gate": (-1.0, 0.0), "samples": 1000}
    clean, some, much = (
        best_two_mode_accuracy(pattern, GaussianNoise(scale), **grid) for scale in (0, 0.05, 0.2)
    )
    assert clean == 1
    assert clean > some > much > 0.5

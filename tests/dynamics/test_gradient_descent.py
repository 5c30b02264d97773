import itertools

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from keelback.dynamics import CorrelatedNoise, GaussianNoise, Locality, MajorityVoting, StudentNoise
from keelback.dynamics.descent import GatedTraining, history, measured_epochs, train_gated
from keelback.dynamics.descent.batch import Batch, ranking
from keelback.dynamics.gated import GatedSSM, hinge_loss
from keelback.dynamics.patterns import sample_patterns, stream
from keelback.errors import InputError

SMALL = MajorityVoting(0.4, 0.1, 10, 8)


def small(**changes):
    options = {"samples": 64, "test_samples": 64, "width": 8, "step_size": 1.0, "epochs": 40}
    return GatedTraining(**({"pattern": SMALL} | options | changes))


def assert_same(first, second):
    assert first.status == second.status
    assert first.epochs_to_target == second.epochs_to_target
    np.testing.assert_array_equal(first.epochs, second.epochs)
    np.testing.assert_array_equal(first.gating, second.gating)
    np.testing.assert_array_equal(first.test_loss, second.test_loss)
    np.testing.assert_array_equal(first.W_O, second.W_O)


@pytest.mark.parametrize("source", ["fixed", "paired", "fresh"])
def test_descent_is_that_of_autograd_in_float64(source):
    training = small(source=source, epochs=20, target=None)
    history = train_gated([training])[0]
    model = GatedSSM(8, 8, generator=stream(0, 2)).double()
    data = stream(0, 0)
    steps = 2**21 // (64 * 80) if source == "fresh" else 1
    drawn = sample_patterns(SMALL, 64 * steps, training.noise, data, paired=source == "paired")
    for step in range(20):
        start = 64 * (steps - 1 - step) if source == "fresh" else 0
        tokens = drawn.tokens[start : start + 64].double()
        loss = hinge_loss(model(tokens), drawn.labels[start : start + 64]).mean()
        dw, dW = torch.autograd.grad(loss, (model.w, model.W_O))
        assert history.train_loss[step] == pytest.approx(loss.item(), rel=1e-4)
        with torch.no_grad():
            model.w -= dw
            model.W_O -= dW
    np.testing.assert_allclose(history.gating[-1], model.w.detach(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(history.W_O, model.W_O.detach(), rtol=1e-3, atol=1e-5)


def test_a_training_does_not_depend_on_its_company():
    """Not in one bit: also where others of its batch stop early and leave."""
    trainings = [
        small(seed=seed, step_size=eta, epochs=60, target=0.2)
        for seed in range(4)
        for eta in (0.3, 5.0)
    ]
    together = train_gated(trainings)
    assert len({found.epochs_to_target for found in together}) > 2
    for training, found in zip(trainings, together, strict=True):
        assert_same(found, train_gated([training])[0])
    for first, second in zip(together, train_gated(trainings, memory=1.0), strict=True):
        assert_same(first, second)


def test_shapes_may_be_mixed_and_keep_their_order():
    trainings = [small(samples=64), small(width=4), small(samples=32), small(width=4, seed=1)]
    finished = []
    histories = train_gated(trainings, on_progress=finished.append)
    assert sum(finished) == 4
    assert [history.W_O.shape[0] for history in histories] == [8, 4, 8, 4]
    assert_same(histories[3], train_gated([trainings[3]])[0])


def test_stopping_at_the_target_changes_nothing_before_it():
    stopped, full = (
        train_gated([small(target=0.5, epochs=80, step_size=3.0)]),
        train_gated([small(target=0.5, epochs=80, step_size=3.0, stop_at_target=False)]),
    )
    assert stopped[0].status == full[0].status == "reached"
    reached = stopped[0].epochs_to_target
    assert reached == full[0].epochs_to_target == stopped[0].epochs[-1] < full[0].epochs[-1] == 80
    assert (stopped[0].test_loss[:-1] > 0.5).all()
    assert stopped[0].test_loss[-1] <= 0.5
    np.testing.assert_array_equal(stopped[0].gating, full[0].gating[: len(stopped[0].epochs)])


def test_a_training_without_a_gradient_leaves_early_and_loses_nothing(monkeypatch):
    """Where all margins are met the rest of the history is known, and is written down unrun."""
    few = [small(samples=4, seed=seed, epochs=900, target=1e-9) for seed in range(3)]
    few.append(small(samples=4, seed=0, epochs=900, target=0.9, stop_at_target=False))
    fresh = small(samples=4, source="fresh", epochs=900, target=None)
    steps = []
    keep = Batch._keep
    monkeypatch.setattr(Batch, "_keep", lambda *given: steps.append(keep(*given)))
    left = train_gated([*few, fresh])
    assert steps
    monkeypatch.setattr(history, "settled", lambda training, train_loss: False)
    for early, whole in zip(left, train_gated([*few, fresh]), strict=True):
        assert_same(early, whole)
        np.testing.assert_array_equal(early.train_loss, whole.train_loss)
    assert [history.status for history in left] == ["censored"] * 3 + ["reached", "censored"]
    assert all(history.train_loss[-1] == 0 for history in left[:4])
    assert all(history.epochs.tolist() == measured_epochs(900) for history in left)


def test_targets_that_are_never_reached_are_censored():
    history = train_gated([small(epochs=3, target=1e-3)])[0]
    assert history.status == "censored"
    assert history.epochs_to_target is None
    assert history.epochs.tolist() == [0, 1, 2, 3]


def test_ranking_is_that_of_a_rank_sum_and_ignores_a_constant():
    rng = np.random.default_rng(0)
    signs = np.sign(rng.standard_normal((3, 40)))
    outputs = rng.standard_normal((3, 40)) + 0.5 * signs
    expected = [
        mannwhitneyu(f[z > 0], f[z < 0]).statistic / ((z > 0).sum() * (z < 0).sum())
        for f, z in zip(outputs, signs, strict=True)
    ]
    for constant in (0.0, 5.0):
        margins = torch.tensor((outputs + constant) * signs)
        found = ranking(margins, torch.tensor(signs))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_divergence_is_a_result_and_spares_the_company():
    calm, wild = small(seed=1), small(noise=GaussianNoise(5.0), step_size=3e38)
    histories = train_gated([calm, wild])
    assert histories[1].status == "diverged"
    assert histories[1].diverged_by == histories[1].epochs[-1] <= 3
    assert histories[1].epochs_to_target is None
    assert_same(histories[0], train_gated([calm])[0])


def test_majority_opens_the_gate_for_class_features_alone():
    """The spec's prototype: loss 3e-4, <w, o_+-> of 2.4 and 1.9, the rest within 0.06."""
    history = train_gated(
        [
            GatedTraining(MajorityVoting(0.4, 0.1, 30, 32), epochs=400, seed=seed, target=None)
            for seed in range(2)
        ]
    )
    for found in history:
        assert found.test_loss[-1] < 1e-3
        assert found.test_accuracy[-1] == 1
        assert found.gating[-1][:2].min() > 1.7
        assert np.abs(found.gating[-1][2:]).max() < 0.07


def test_locality_closes_the_gate_for_irrelevant_features():
    """With near >= 2; with near = 1 no irrelevant token lies in the pair and the sign turns."""
    near3, near1 = train_gated(
        [
            GatedTraining(
                Locality(near, 9, 14, 8),
                samples=256,
                source="paired",
                width=20,
                step_size=10.0,
                epochs=400,
                target=None,
            )
            for near in (3, 1)
        ]
    )
    assert near3.gating[-1][2:].mean() < -1
    assert near3.gating[-1][2:].max() < -0.3
    assert np.abs(near3.gating[-1][:2]).max() < 0.4
    assert near1.gating[-1][2:].mean() > 0.05


@pytest.mark.parametrize(
    "changes",
    [
        {"noise": StudentNoise(0.05, 3.0)},
        {"noise": CorrelatedNoise(0.05, 0.5, 0.5)},
        {"noise": GaussianNoise(0.0)},
        {"mixing": "orthogonal"},
        {"mixing": "gaussian"},
        {"pattern": Locality(2, 6, 10, 8)},
        {"test_samples": 2, "samples": 2},
        {"epochs": 1},
    ],
)
def test_options_train(changes):
    history = train_gated([small(**changes)])[0]
    assert history.train_loss[-1] < history.train_loss[0]


def test_measured_epochs_are_dense_at_first_and_end_at_the_end():
    times = measured_epochs(1000)
    assert times[:52] == list(range(52))
    assert times[-1] == 1000
    assert all(b - a <= max(1, 0.02 * a) for a, b in itertools.pairwise(times))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 7}, "odd widths"),
        ({"epochs": 0}, "at least one epoch"),
        ({"samples": 1}, "samples are at least 2"),
        ({"test_samples": 0}, "test samples are at least 2"),
        ({"samples": 33, "source": "paired"}, "even number"),
        ({"step_size": 0.0}, "step size"),
        ({"step_size": float("nan")}, "step size"),
        ({"target": 0.0}, "between 0 and 1"),
        ({"pattern": MajorityVoting(0.4, 0.1, 10, 8, classes=3)}, "two classes, not 3"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        small(**changes)


def test_an_empty_set_of_trainings_is_refused():
    with pytest.raises(InputError, match="at least one trial"):
        train_gated([])


def test_the_step_size_is_the_unit_of_time():
    """What the locality experiment says of its target: up to there eta T is what counts."""
    small_step, large_step = train_gated(
        [
            GatedTraining(
                Locality(1, 8, 12, 6),
                samples=128,
                test_samples=128,
                source="paired",
                width=8,
                step_size=eta,
                epochs=2500,
                target=0.95,
            )
            for eta in (1.0, 4.0)
        ]
    )
    ratio = small_step.epochs_to_target / large_step.epochs_to_target
    assert ratio == pytest.approx(4, rel=0.1)

"""Optimizers, step sizes, schedules and symmetries of the batched trainer, in float64."""

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from keelback.dynamics import GaussianNoise, Locality, MajorityVoting
from keelback.dynamics.descent import GatedTraining, train_gated
from keelback.dynamics.descent.batch import Batch
from keelback.dynamics.descent.optimizer import Rates
from keelback.dynamics.descent.sharpness import Sharpness
from keelback.dynamics.exchange import (
    exchanged_gate,
    exchanged_readout,
    symmetric_gate,
    symmetric_readout,
)
from keelback.dynamics.gated import GatedSSM, class_readout, hinge_loss
from keelback.dynamics.patterns import sample_features, stream
from keelback.errors import InputError

SMALL = Locality(2, 6, 10, 6)


def small(**changes):
    options = {"samples": 32, "test_samples": 32, "width": 8, "epochs": 25, "target": None}
    options |= {"pattern": SMALL, "noise": GaussianNoise(0.0), "source": "paired"}
    return GatedTraining(**(options | changes))


def step_by_step(training, optimizer, factor=lambda epoch: 1.0):
    """The same training with autograd and an optimizer of PyTorch; every loss, w and W_O."""
    dim, width = training.pattern.dim, training.width
    model = GatedSSM(dim, width, generator=stream(training.seed, 2)).double()
    features, labels = sample_features(
        training.pattern, training.samples, stream(training.seed, 0), paired=True
    )
    tokens = one_hot(features, dim).double()
    rates = (training.eta_gate, training.eta_out)
    groups = [
        {"params": [part], "lr": rate}
        for part, rate in zip((model.w, model.W_O), rates, strict=True)
    ]
    taken = optimizer(groups)
    losses = []
    for epoch in range(training.epochs):
        for group, rate in zip(taken.param_groups, rates, strict=True):
            group["lr"] = rate * factor(epoch)
        model.zero_grad()
        loss = hinge_loss(model(tokens), labels).mean()
        for part, gradient in zip(
            (model.w, model.W_O), torch.autograd.grad(loss, (model.w, model.W_O)), strict=True
        ):
            part.grad = gradient
        losses.append(loss.item())
        taken.step()
    return losses, model.w.detach(), model.W_O.detach()


OPTIMIZERS = {
    "gd": lambda groups: torch.optim.SGD(groups, lr=1.0),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.8),
    "adam": lambda groups: torch.optim.Adam(groups, betas=(0.8, 0.999)),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_are_those_of_pytorch(name):
    rates = (0.02, 0.1) if name == "adam" else (0.7, 3.0)
    training = small(
        optimizer=name, momentum=0.8, gate_step_size=rates[0], readout_step_size=rates[1]
    )
    losses, w, W_O = step_by_step(training, OPTIMIZERS[name])
    found = train_gated([training])[0]
    np.testing.assert_allclose(found.train_loss[:-1], losses, rtol=1e-9)
    np.testing.assert_allclose(found.gating[-1], w, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.W_O, W_O, rtol=1e-6, atol=1e-9)


def test_decaying_steps_fall_as_they_say():
    training = small(step_size=2.0, schedule="decaying", decay=5.0)
    factor = lambda epoch: 1 / (1 + epoch / 5)  # noqa: E731
    losses, w, _ = step_by_step(training, OPTIMIZERS["gd"], factor)
    found = train_gated([training])[0]
    np.testing.assert_allclose(found.train_loss[:-1], losses, rtol=1e-9)
    np.testing.assert_allclose(found.gating[-1], w, rtol=1e-6, atol=1e-9)
    assert found.progress[-1] == pytest.approx(sum(factor(epoch) for epoch in range(25)))


def test_progress_of_constant_steps_counts_them():
    found = train_gated([small()])[0]
    np.testing.assert_array_equal(found.progress, found.epochs)


@pytest.mark.parametrize("symmetry", ["none", "readout", "model"])
def test_sharpness_is_the_largest_eigenvalue(symmetry):
    """Of J D J^T / n, with J differentiated by PyTorch one sequence at a time."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randint(6, (1, 40, 9), generator=generator)
    signs = torch.randn(1, 40, generator=generator, dtype=torch.float64).sign()
    w = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    W_O = torch.randn(1, 8, 6, generator=generator, dtype=torch.float64)
    training = small(gate_step_size=0.7, readout_step_size=3.0)
    rates = Rates.of([training], "cpu", torch.float64)
    v = class_readout(8)[:, 0].double()
    found = Sharpness.on(features, signs, v, None, 6, symmetry).at((w, W_O), rates)
    model = GatedSSM(6, 8).double()
    with torch.no_grad():
        model.w.copy_(w[0])
        model.W_O.copy_(W_O[0])
    rows = []
    for tokens in one_hot(features[0], 6).double():
        dw, dW = torch.autograd.grad(model(tokens[None])[0, 0], (model.w, model.W_O))
        if symmetry != "none":
            dW = symmetric_readout(dW[None])[0]
        if symmetry == "model":
            dw = symmetric_gate(dw[None])[0]
        rows.append(torch.cat([0.7**0.5 * dw, 3.0**0.5 * dW.flatten()]))
    J = torch.stack(rows)
    assert found.item() == pytest.approx(torch.linalg.eigvalsh(J @ J.T / 40)[-1].item(), rel=1e-6)


def test_stable_steps_settle_where_constant_ones_swing():
    """Steps far too large for the end are shortened, and the loss then only falls."""
    options = {"step_size": 300.0, "epochs": 300, "samples": 64, "width": 20}
    wild, stable = train_gated([small(**options), small(**options, schedule="stable")])
    rises = [np.maximum(np.diff(found.train_loss), 0).max() for found in (wild, stable)]
    assert rises[0] > 0.1
    assert rises[1] < 0.02
    assert 0 < stable.progress[-1] < stable.epochs[-1]


@pytest.mark.parametrize("symmetry", ["readout", "model"])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_symmetry_is_kept(symmetry, noise):
    training = small(symmetry=symmetry, noise=GaussianNoise(noise), step_size=5.0)
    found = train_gated([training])[0]
    W_O = torch.as_tensor(found.W_O)[None]
    torch.testing.assert_close(exchanged_readout(W_O), W_O, rtol=1e-5, atol=1e-7)
    read = class_readout(8)[:, 0].to(W_O.dtype) @ torch.relu(W_O[0])
    assert read[0] == pytest.approx(-read[1].item(), rel=1e-4)
    assert read[2:].abs().max() < 1e-6
    w = torch.as_tensor(found.gating[-1])[None]
    assert torch.equal(exchanged_gate(w), w) == (symmetry == "model")
    assert found.train_loss[-1] < found.train_loss[0]


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam"])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_training_does_not_depend_on_its_company(optimizer, noise):
    options = {"optimizer": optimizer, "noise": GaussianNoise(noise), "epochs": 60, "target": 0.5}
    options |= {"pattern": MajorityVoting(0.4, 0.1, 10, 6)}
    rates = (0.02, 0.1) if optimizer == "adam" else (0.5, 5.0)
    trainings = [
        small(**options, seed=seed, gate_step_size=rate, readout_step_size=rate)
        for seed in range(4)
        for rate in rates
    ]
    together = train_gated(trainings)
    assert len({found.epochs_to_target for found in together}) > 2
    for training, found in zip(trainings, together, strict=True):
        alone = train_gated([training])[0]
        np.testing.assert_array_equal(found.W_O, alone.W_O)
        np.testing.assert_array_equal(found.gating, alone.gating)


def test_a_target_accuracy_is_met_at_the_same_epoch_as_the_loss():
    options = {"optimizer": "adam", "gate_step_size": 0.01, "readout_step_size": 0.3}
    options |= {"target": 0.97, "stop_at_target": False, "epochs": 300, "samples": 128}
    loss, both = train_gated([small(**options), small(**options, target_accuracy=0.75)])
    met = (both.test_loss <= 0.97) & (both.test_accuracy >= 0.75)
    assert both.epochs_to_target == both.epochs[met.argmax()]
    assert loss.epochs_to_target < both.epochs_to_target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate_step_size": 0.0}, "gate's step size"),
        ({"readout_step_size": float("inf")}, "read-out's step size"),
        ({"decay": 0.0}, "decay"),
        ({"stability": -1.0}, "stability"),
        ({"momentum": 1.0}, "momentum lies"),
        ({"target_accuracy": 0.9}, "needs a target test loss"),
        ({"target": 0.1, "target_accuracy": 1.5}, "at most 1"),
        ({"optimizer": "adam", "schedule": "stable"}, "plain gradient descent"),
        ({"source": "population", "optimizer": "adam"}, "plain gradient descent"),
        ({"source": "population", "noise": GaussianNoise(0.1)}, "without noise"),
        ({"source": "population", "pattern": MajorityVoting(0.4, 0.1, 10, 6)}, "locality"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        small(**changes)


def test_data_without_noise_are_features_in_float64():
    batch = Batch([small()], "cpu", None)
    assert batch._weights[1].dtype == torch.float64
    assert batch._train.features.shape == (1, 32, 10)

"""The exact population of locality data, against all of its sequences one by one."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from keelback.dynamics import GaussianNoise, Locality
from keelback.dynamics.descent import GatedTraining, train_gated
from keelback.dynamics.descent.population import arrangements
from keelback.dynamics.exchange import symmetric_gate, symmetric_readout
from keelback.dynamics.gated import GatedSSM, hinge_loss
from keelback.dynamics.patterns import stream


def training(pattern, **changes):
    options = {"source": "population", "noise": GaussianNoise(0.0), "width": 6, "target": None}
    return GatedTraining(pattern, **(options | {"epochs": 12, "step_size": 3.0} | changes))


def all_sequences(pattern):
    """Every sequence of the task with its label, each as likely as any other."""
    features, labels = [], []
    free = pattern.length - 4
    for first, second in pattern.placements:
        for label in (0, 1):
            for rest in itertools.product(range(2, pattern.dim), repeat=free):
                row = np.full(pattern.length, -1)
                row[[first, first + pattern.near]] = label
                row[[second, second + pattern.far]] = 1 - label
                row[row < 0] = rest
                features.append(row)
                labels.append(label)
    return torch.as_tensor(np.array(features)), torch.as_tensor(labels)


@pytest.mark.parametrize("symmetry", ["none", "readout", "model"])
@pytest.mark.parametrize(
    "pattern", [Locality(2, 4, 6, 4), Locality(1, 3, 6, 5), Locality(1, 2, 5, 3)]
)
def test_descent_is_that_on_all_sequences(pattern, symmetry):
    """Through the hinge, where some sequences have left: the recurrence, in float64."""
    config = training(pattern, symmetry=symmetry, step_size=8.0, epochs=60)
    found = train_gated([config])[0]
    features, labels = all_sequences(pattern)
    tokens = one_hot(features, pattern.dim).double()
    model = GatedSSM(pattern.dim, 6, generator=stream(0, 2)).double()

    def project(w, W_O):
        if symmetry != "none":
            W_O = symmetric_readout(W_O[None])[0]
        return (symmetric_gate(w[None])[0] if symmetry == "model" else w), W_O

    with torch.no_grad():
        model.W_O.copy_(project(model.w, model.W_O)[1])
        model.W_O[:, 2:] = 0
    for epoch in range(60):
        loss = hinge_loss(model(tokens), labels).mean()
        assert found.train_loss[epoch] == pytest.approx(loss.item(), rel=1e-6)
        gradient = project(*torch.autograd.grad(loss, (model.w, model.W_O)))
        with torch.no_grad():
            model.w -= 8.0 * gradient[0]
            model.W_O -= 8.0 * gradient[1]
    np.testing.assert_allclose(found.gating[-1], model.w.detach(), rtol=1e-5, atol=1e-8)
    outputs = model(tokens).detach()[:, 0]
    signs = 1.0 - 2.0 * labels
    assert found.test_accuracy[-1] == pytest.approx((outputs * signs > 0).double().mean().item())
    wins = torch.sign(outputs[labels == 0][:, None] - outputs[labels == 1])
    assert found.test_ranking[-1] == pytest.approx(((1 + wins) / 2).mean().item())


@pytest.mark.parametrize("pattern", [Locality(3, 12, 20, 16), Locality(1, 2, 5, 4)])
def test_arrangements_cover_every_placement(pattern):
    kinds, shares = arrangements(pattern)
    assert shares.sum() == pytest.approx(1)
    assert (kinds.max(1) <= 2).all()
    counted = {tuple(kind): 0 for kind in kinds}
    for first, second in pattern.placements:
        near = [first < place < first + pattern.near for place in (second, second + pattern.far)]
        far = [second < place < second + pattern.far for place in (first, first + pattern.near)]
        counted[sum(near), sum(far)] += 1
    for kind, share in zip(kinds, shares, strict=True):
        assert counted[tuple(kind)] == round(share * len(pattern.placements))


def test_plain_gradient_descent_learns_locality():
    """With stable steps, and a read-out that moves faster than the gate: no sequence is wrong."""
    config = training(
        Locality(2, 12, 20, 16), gate_step_size=1.0, readout_step_size=100.0, schedule="stable",
        width=50, readout_scale=0.01, epochs=20000, target=0.1, target_accuracy=0.99,
    )  # fmt: skip
    found = train_gated([config])[0]
    assert found.status == "reached"
    assert found.test_accuracy[-1] == 1
    assert found.progress[-1] < found.epochs[-1]


def test_fresh_data_follow_the_population():
    """Many fresh sequences per step, a small start: the same curve to some per cent."""
    pattern = Locality(2, 8, 12, 8)
    options = {"step_size": 10.0, "epochs": 500, "readout_scale": 0.01, "width": 20}
    exact = train_gated([training(pattern, **options)])[0]
    drawn = train_gated(
        [training(pattern, **options, source="fresh", samples=1024, test_samples=2048)]
    )[0]
    assert exact.test_loss[-1] < 0.9
    np.testing.assert_allclose(drawn.test_loss, exact.test_loss, atol=0.03)
    assert drawn.gating[-1][2:].mean() == pytest.approx(exact.gating[-1][2], rel=0.1)

"""Samples that are passed over: the bound on how far outputs move, and that nothing changes."""

import numpy as np
import pytest
import torch

from keelback.dynamics import GaussianNoise, Locality, MajorityVoting, sample_patterns
from keelback.dynamics.descent import GatedTraining, train_gated
from keelback.dynamics.gated import class_readout
from keelback.dynamics.gradient import TorchHinge, hinge_objective
from keelback.dynamics.gradient.beyond_hinge import BeyondHinge
from keelback.dynamics.patterns import stream


def drawn(seed, noise=0.02, mixing=False, length=8, dim=5, samples=12):
    generator = stream(seed, 0)
    tokens = sample_patterns(
        MajorityVoting(0.5, 0.25, length, dim), samples, GaussianNoise(noise), generator
    )
    x = tokens.tokens.double()[None]
    queries = x @ torch.randn(dim, dim, generator=generator).double() if mixing else x
    return x, tokens.signs.double()[None], queries @ x.mT


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("noise", [0.02, 2.0])
@pytest.mark.parametrize("move", [1e-3, 0.1, 3.0, 100.0])
def test_no_output_moves_further_than_the_path(move, noise, mixing):
    tightest = 0.0
    for seed in range(20):
        tokens, signs, scores = drawn(seed, noise, mixing)
        generator = torch.Generator().manual_seed(seed)
        v = class_readout(6)[:, 0].double()
        w, W_O = (torch.randn(1, *s, generator=generator).double() for s in ((5,), (6, 5)))
        dw, dW = (torch.randn(1, *s, generator=generator).double() for s in ((5,), (6, 5)))
        share = torch.rand(1, generator=generator).double()
        after = w + move * share * dw, W_O + move * (1 - share) * dW
        objective = TorchHinge(tokens, signs, v, scores)
        moved = (objective.margins(*after) - objective.margins(w, W_O)).abs().max()
        path = BeyondHinge.at(tokens, scores, w, W_O).moved_to(*after, v).path
        tightest = max(tightest, float(moved / path))
    assert 0 < tightest <= 1


@pytest.mark.parametrize(
    "training",
    [
        GatedTraining(
            MajorityVoting(0.5, 0.1, 10, 8), samples=64, test_samples=32, width=8, step_size=1.0,
            epochs=300, target=None,
        ),
        GatedTraining(
            Locality(2, 5, 9, 6), samples=64, source="paired", test_samples=32, width=8,
            step_size=20.0, epochs=300, target=None,
        ),
    ],
)  # fmt: skip
def test_passing_over_samples_changes_no_bit(training, monkeypatch):
    safe, shares = BeyondHinge.safe, []

    def counted(self):
        found = safe(self)
        shares.append(float(found.float().mean()))
        return found

    monkeypatch.setattr(BeyondHinge, "safe", counted)
    with_it = train_gated([training], backend="numba")[0]
    if isinstance(training.pattern, MajorityVoting):
        assert max(shares) > 0.5
    monkeypatch.setattr(BeyondHinge, "safe", lambda self: torch.zeros_like(safe(self)))
    without = train_gated([training], backend="numba")[0]
    for name in ("train_loss", "test_loss", "gating", "W_O"):
        np.testing.assert_array_equal(getattr(with_it, name), getattr(without, name))


def test_weights_may_jump_turn_infinite_or_change_in_place():
    tokens, signs, scores = (part.float() for part in drawn(0))
    v = class_readout(6)[:, 0]
    objective = hinge_objective(tokens, signs, v, backend="numba")
    generator = torch.Generator().manual_seed(0)
    w, W_O = (torch.randn(1, *s, generator=generator) for s in ((5,), (6, 5)))
    W_O = 100 * W_O
    exact = TorchHinge(tokens, signs, v, scores)
    for factor in (1.0, 1.0, -1.0, 0.5, float("inf"), 0.0, 1.0):
        W_O.mul_(1.0).copy_(torch.where(W_O.isfinite(), W_O, 1.0)).mul_(factor)
        if factor == float("inf"):
            assert not objective.gradient(w, W_O).loss.isfinite().all()
            continue
        expected = exact.gradient(w, W_O)
        found = objective.gradient(w, W_O)
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.W_O, expected.W_O, rtol=1e-4, atol=1e-5)

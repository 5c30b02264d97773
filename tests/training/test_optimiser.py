"""Replica optimiser, clipping and schedule against PyTorch's own, one replica at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keelback.training._optimiser import ReplicaAdam, ReplicaPlateau, clip_by_norm


@pytest.mark.parametrize("weight_decay", [0.0, 1e-5, 0.3])
def test_adam_is_torchs_adam_for_every_replica(weight_decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 17, generator=generator, dtype=torch.float64)
    gradients = torch.randn(40, 3, 17, generator=generator, dtype=torch.float64)
    rates = torch.tensor([1e-2, 3e-3, 0.5], dtype=torch.float64)
    ours = ReplicaAdam(start.clone(), weight_decay)
    theirs = [torch.nn.Parameter(row.clone()) for row in start]
    adams = [
        torch.optim.Adam([p], lr=rate, weight_decay=weight_decay)
        for p, rate in zip(theirs, rates.tolist(), strict=True)
    ]
    for gradient in gradients:
        ours.step(gradient.clone(), rates, torch.ones(3, dtype=torch.bool))
        for parameter, row, adam in zip(theirs, gradient, adams, strict=True):
            parameter.grad = row.clone()
            adam.step()
    torch.testing.assert_close(ours.parameters, torch.stack([p.detach() for p in theirs]))


def test_a_dead_replica_keeps_its_parameters_even_under_nan() -> None:
    ours = ReplicaAdam(torch.ones(2, 3), 0.1)
    gradient = torch.tensor([[1.0, 2.0, 3.0], [torch.nan, torch.inf, 1.0]])
    for _ in range(3):
        ours.step(gradient, torch.full((2,), 0.1), torch.tensor([True, False]))
    assert torch.equal(ours.parameters[1], torch.ones(3))
    assert bool((ours.parameters[0] < 1).all())


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.floats(-6, 6), st.floats(0.01, 100))
def test_clipping_is_torchs_clipping(seed: int, log_scale: float, clip_norm: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(2, 9, generator=generator, dtype=torch.float64) * 10**log_scale
    clipped, norms = clip_by_norm(gradient, clip_norm)
    for row, result, norm in zip(gradient, clipped, norms, strict=True):
        parameter = torch.nn.Parameter(torch.zeros(9, dtype=torch.float64))
        parameter.grad = row.clone()
        expected = torch.nn.utils.clip_grad_norm_([parameter], clip_norm)
        torch.testing.assert_close(result, parameter.grad)
        torch.testing.assert_close(norm, expected)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(1e-3, 10), min_size=1, max_size=40),
    st.integers(0, 5),
    st.sampled_from([0.0, 0.01, 0.3]),
)
def test_the_schedule_is_torchs_schedule(
    losses: list[float], patience: int, threshold: float
) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([parameter], lr=0.01)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam, factor=0.9, patience=patience, threshold=threshold
    )
    ours = ReplicaPlateau(torch.tensor([0.01], dtype=torch.float64), 0.9, patience, threshold)
    for loss in losses:
        theirs.step(loss)
        ours.step(torch.tensor([loss], dtype=torch.float64))
        assert ours.learning_rate.item() == pytest.approx(adam.param_groups[0]["lr"], rel=1e-12)


def test_each_replica_has_its_own_rate() -> None:
    ours = ReplicaPlateau(torch.tensor([0.01, 0.01]), 0.5, 0, 0.01)
    for falling in (1.0, 0.5, 0.25):
        ours.step(torch.tensor([falling, 1.0]))
    assert ours.learning_rate.tolist() == pytest.approx([0.01, 0.0025])


def test_a_norm_in_float64_does_not_overflow() -> None:
    gradient = torch.tensor([[3e30, -4e30, 0.0], [0.3, 0.4, 0.0], [torch.inf, 1.0, 0.0]])
    clipped, norms = clip_by_norm(gradient, 5.0, torch.float64)
    torch.testing.assert_close(clipped[:2], torch.tensor([[3.0, -4.0, 0.0], [0.3, 0.4, 0.0]]))
    torch.testing.assert_close(norms[:2], torch.tensor([5e30, 0.5], dtype=torch.float64))
    assert not clipped[2].isfinite().all()
    zeroed, overflowed = clip_by_norm(gradient, 5.0)
    assert (zeroed[0] == 0).all()
    assert overflowed[0].isinf()

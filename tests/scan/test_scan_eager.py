"""The way past the dispatcher: taken where nothing could tell, and giving the same numbers."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from keelback.compiled.watchers import runs_eagerly
from keelback.scan import selective_scan
from keelback.scan._op import SCAN

SHAPES = ((3, 70, 4, 4, 1), (2, 5, 6, 8, 2), (1, 1, 1, 1, 1), (2, 3, 40, 3, 1))


def operands(batch: int, length: int, channels: int, state: int, groups: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    rows = (batch, length)
    return [
        normal(*rows, channels),
        normal(*rows, channels),
        normal(channels, state),
        normal(*rows, groups, state),
        normal(*rows, groups, state),
        normal(channels),
        normal(*rows, channels),
        normal(channels),
        normal(batch, channels, state),
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared_delta", [False, True])
def test_it_is_the_operator(shape: tuple[int, ...], shared_delta: bool) -> None:
    leaves = operands(*shape)
    if shared_delta:
        leaves[1] = leaves[1][..., :1].detach().requires_grad_()
    initial = leaves[-1]
    y, last = selective_scan(*leaves[:-1], True, initial, True)
    through_operator = SCAN.dispatch(*(x.unsqueeze(0) for x in leaves), None, True, True)
    assert type(y.grad_fn) is not type(through_operator[0].squeeze(0).grad_fn)
    assert torch.equal(y, through_operator[0].squeeze(0))
    assert torch.equal(last, through_operator[1].squeeze(0))
    ours = torch.autograd.grad(y.square().sum() + last.sum(), leaves)
    theirs = torch.autograd.grad(
        through_operator[0].square().sum() + through_operator[1].sum(), leaves
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_modes_and_wrappers_are_left_to_the_dispatcher() -> None:
    x = torch.randn(3)

    class Subclass(torch.Tensor):
        pass

    assert runs_eagerly(x, None, torch.nn.Parameter(x))
    assert not runs_eagerly(x, torch._neg_view(x))
    assert not runs_eagerly(x.as_subclass(Subclass))
    assert not runs_eagerly(x.to("meta"))
    with TorchDispatchMode():
        assert not runs_eagerly(x)
    with TorchFunctionMode():
        assert not runs_eagerly(x)
    seen = []
    torch.func.vmap(lambda row: seen.append(runs_eagerly(row)) or row)(x)
    assert seen == [False]


def test_a_lazily_negated_operand_is_read_negated() -> None:
    u, delta, A, B, C, *_ = (x.detach() for x in operands(2, 9, 4, 4, 1))
    expected = selective_scan(-u, delta, A, B, C, delta_softplus=True)
    assert torch.equal(
        selective_scan(torch._neg_view(u), delta, A, B, C, delta_softplus=True), expected
    )


def test_a_second_derivative_is_refused() -> None:
    u, delta, A, B, C, *_ = operands(2, 9, 4, 4, 1)
    y = selective_scan(u, delta, A, B, C, delta_softplus=True)
    (du,) = torch.autograd.grad(y.square().sum(), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="backend='reference'"):
        torch.autograd.grad(du.sum(), u)


def test_checkpointing_and_batched_gradients_agree() -> None:
    u, delta, A, B, C, *_ = operands(2, 9, 4, 4, 1)

    def run(u: torch.Tensor) -> torch.Tensor:
        return selective_scan(u, delta, A, B, C, delta_softplus=True)

    (expected,) = torch.autograd.grad(run(u).square().sum(), u)
    again = checkpoint(run, u, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(again.square().sum(), u)[0], expected)
    y = run(u)
    directions = torch.randn(3, *y.shape, dtype=y.dtype)
    (batched,) = torch.autograd.grad(y, u, directions, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(y, u, d, retain_graph=True)[0] for d in directions]
    torch.testing.assert_close(batched, torch.stack(one_by_one))

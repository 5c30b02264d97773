"""Calls that are recognised by what their tensors are like."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from keelback import conv, scan
from keelback.compiled import guards
from keelback.compiled.guards import Recent, guard_over
from keelback.compiled.layouts import signature_of
from keelback.errors import InputError
from keelback.scan._op import _CALLS, _STEPS

pytestmark = pytest.mark.skipif(
    guards._guards_of_pytorch() is None,
    reason=f"guards of PyTorch {torch.__version__} were not tried",
)


selective_scan: Any = scan.selective_scan
selective_scan_step: Any = scan.selective_scan_step
convolved: Any = conv.causal_conv1d


class Subclass(Tensor):
    pass


def operands(length: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    u, B, C = normal(2, length, 6), normal(2, length, 1, 3), normal(2, length, 1, 3)
    return [u, normal(2, length, 6).exp(), -normal(6, 3).exp(), B, C]


def test_likeness() -> None:
    x, y = torch.randn(2, 5, 4), torch.randn(3)
    fits = guard_over([x, None, y])
    assert fits(x, y)
    assert fits(torch.randn(2, 5, 4), torch.randn(3))
    unlike = (
        x[:1],
        x.mT.contiguous().mT,
        x.double(),
        x.to("meta"),
        x.clone().requires_grad_(),
        torch.nn.Parameter(x),
        torch._neg_view(x),
        x.as_subclass(Subclass),
        torch._efficientzerotensor((2, 5, 4)),
    )
    assert not any(fits(other, y) for other in unlike)
    with torch.inference_mode():
        assert not fits(x, y)
        made = x + 1
    assert not fits(made, y)
    seen = []

    def noting(row: Tensor) -> Tensor:
        seen.append(fits(x, y))
        return row

    torch.func.vmap(noting)(x)
    assert seen == [False]


def test_newer_pytorch_than_tried_recognises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "3.0.0")
    assert guards._guards_of_pytorch() is None
    monkeypatch.setattr(guards, "_GUARDS", None)
    x = torch.randn(3)
    assert not guard_over([x])(x)


def counting(monkeypatch: pytest.MonkeyPatch, calls: Any, name: str) -> list[tuple[Any, ...]]:
    """Signatures and options of calls that were not recognised, which the method `name` plans."""
    found: list[tuple[Any, ...]] = []
    plan = getattr(calls, name)

    def planned(*arguments: Any) -> Any:
        found.append(arguments)
        return plan(*arguments)

    monkeypatch.setattr(calls, "_recent", Recent())
    monkeypatch.setattr(calls, name, planned)
    return found


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Of scans."""
    return counting(monkeypatch, _CALLS, "_prepared")


def test_like_calls_are_recognised(counted: list[tuple[Any, ...]]) -> None:
    first, longer = operands(), operands(9)
    y = selective_scan(*first)
    assert torch.equal(selective_scan(*first), y)
    selective_scan(*longer)
    selective_scan(*first)
    assert [signature for signature, *_ in counted] == [
        signature_of([*x, *[None] * 5]) for x in (first, longer)
    ]


def test_absent_operands_are_told_apart(counted: list[tuple[Any, ...]]) -> None:
    """D and the bias of the step sizes have the same shape."""
    given, vector = operands(), torch.full((6,), 0.5)
    for _ in range(2):
        skipping = selective_scan(*given, vector)
        biased = selective_scan(*given, delta_bias=vector)
        torch.testing.assert_close(skipping, selective_scan(*given) + vector * given[0])
        torch.testing.assert_close(biased, selective_scan(given[0], given[1] + vector, *given[2:]))
    assert len(counted) == 3


def test_one_object_for_two_operands(counted: list[tuple[Any, ...]]) -> None:
    """Nothing tells such calls, so that they must not push others out."""
    given = operands()
    selective_scan(*given)
    *others, B, _ = operands(9)
    expected = selective_scan(*others, B, B.clone())
    for _ in range(20):
        assert torch.equal(selective_scan(*others, B, B), expected)
    counted.clear()
    selective_scan(*given)
    assert counted == []
    B.requires_grad_()
    (dB,) = torch.autograd.grad(selective_scan(*others, B, B).sum(), B)
    (expected,) = torch.autograd.grad(selective_scan(*others, B, B, backend="reference").sum(), B)
    torch.testing.assert_close(dB, expected)


def test_gradients_are_recognised_by_what_they_require() -> None:
    given = operands()
    selective_scan(*given)
    given[2].requires_grad_()
    for _ in range(2):
        (dA,) = torch.autograd.grad(selective_scan(*given).sum(), given[2])
        assert dA.shape == given[2].shape
        with torch.no_grad():
            assert not selective_scan(*given).requires_grad


def test_more_kinds_of_calls_than_are_recognised() -> None:
    for length in (*range(1, 20), *range(1, 20)):
        given = operands(length)
        expected = selective_scan(*given, backend="reference")
        torch.testing.assert_close(selective_scan(*given), expected)


def test_saved_tensors_that_hooks_move() -> None:
    """In the backward pass they lie otherwise than in the forward pass."""

    def moved(x: Tensor) -> Tensor:
        return x.mT.contiguous().mT

    x, weight = torch.randn(2, 9, 6), torch.randn(6, 4, requires_grad=True)
    expected = torch.autograd.grad(convolved(x, weight).square().sum(), weight)
    for _ in range(2):
        with saved_tensors_hooks(lambda x: x, lambda x: moved(x) if x.ndim == 3 else x):
            y = convolved(x, weight)
        found = torch.autograd.grad(y, weight, 2 * y.detach())
        torch.testing.assert_close(found, expected)


def test_steps_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside autograd; with a gradient, and for operands that do not fit, as the first time."""
    found = counting(monkeypatch, _STEPS, "_plan")
    u, delta, A, B, C = operands()
    given = [torch.randn(2, 6, 3), u[:, 0], delta[:, 0], A, B[:, 0], C[:, 0]]
    y, after = selective_scan_step(*given)
    for _ in range(3):
        assert torch.equal(selective_scan_step(*given)[0], y)
    assert [options for _, *options in found] == [[False, False]]
    given[1] = given[1].clone().requires_grad_()
    assert selective_scan_step(*given)[0].requires_grad
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(selective_scan_step(*given)[1], after)
    assert selective_scan_step(*given)[0].requires_grad
    assert [options for _, *options in found] == [[False, False]] * 2
    for _ in range(2):
        with pytest.raises(InputError, match="state has shape"):
            selective_scan_step(given[0][:, 1:], *given[1:])

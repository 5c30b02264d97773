"""What operators give, with all gradients, for comparison with what they are defined to give."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def with_gradients(
    operator: Callable[..., Any], given: dict[str, Any], backend: Any, dtype: torch.dtype
) -> list[Tensor]:
    """Output, last states and all gradients, from both."""
    leaves = {
        name: x if x.dtype == torch.bool else x.to(dtype).requires_grad_()
        for name, x in given.items()
    }
    y, last = operator(**leaves, return_final_states=True, backend=backend)
    generator = torch.Generator().manual_seed(5)
    floating = [x for x in leaves.values() if x.dtype != torch.bool]
    loss = sum((0.0 * x.double().sum() for x in floating), torch.zeros(()))
    for one in (y, last):
        weights = torch.randn(one.shape, generator=generator, dtype=torch.float64)
        loss = loss + (one.double() * weights).sum()
    return [y.detach(), last.detach(), *torch.autograd.grad(loss, floating, materialize_grads=True)]


def near(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        size = max(1.0, float(other.abs().max())) if other.numel() else 1.0
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * size)

"""Gradients of a call that nobody watched, whose backward pass somebody watches."""

from collections.abc import Callable

import pytest
import torch
from operator_calls import CASES
from torch import Tensor

Gradients = tuple[Tensor, ...]


def as_usual(y: Tensor, leaves: list[Tensor], dy: Tensor) -> Gradients:
    return torch.autograd.grad(y, leaves, dy)


def with_a_graph(y: Tensor, leaves: list[Tensor], dy: Tensor) -> Gradients:
    return torch.autograd.grad(y, leaves, dy, create_graph=True)


def batched(y: Tensor, leaves: list[Tensor], dy: Tensor) -> Gradients:
    found = torch.autograd.grad(y, leaves, dy.unsqueeze(0), is_grads_batched=True)
    return tuple(x.squeeze(0) for x in found)


@pytest.mark.parametrize("watched", [with_a_graph, batched])
@pytest.mark.parametrize("name", CASES)
def test_they_are_the_same(name: str, watched: Callable[..., Gradients]) -> None:
    function, given = CASES[name]
    leaves = [x.clone().requires_grad_() for x in given]
    dy = torch.randn(function(*leaves).shape, generator=torch.Generator().manual_seed(9))
    expected = as_usual(function(*leaves), leaves, dy)
    for found, one in zip(watched(function(*leaves), leaves, dy), expected, strict=True):
        torch.testing.assert_close(found, one)

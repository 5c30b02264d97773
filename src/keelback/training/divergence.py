"""Divergence as a result: when it came and which tensor was the first to overflow."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from keelback.training.recipe import Recipe, replica_losses

UNREPEATED = "some tensor (finite when computed again)"
"""The tensor's name where the step, computed once more by itself, stays finite (rounding)."""


@dataclass(frozen=True)
class Divergence:
    """Epoch and step count from 1; `tensor` is the first that was not finite in that step.

    A norm of the gradient that overflows is no divergence as long as every entry is finite.

    Examples:
        >>> found = Divergence(epoch=3, step=41, tensor="ssm.hidden")
        >>> found.epoch, found.tensor
        (3, 'ssm.hidden')
    """

    epoch: int
    step: int
    tensor: str


def first_bad_tensor(
    model: nn.Module,
    tokens: Int[Tensor, "batch length"],
    labels: Int[Tensor, " batch"],
    recipe: Recipe,
) -> str:
    """The first tensor of a training step, in the order of computation, that is not finite.

    A model with a `trace(tokens)` method names its intermediate tensors; of others only logits,
    loss and gradients are looked at. The gradients are those of the forward pass that trains, which
    may compute the same numbers in another way than the trace.
    """
    trace = getattr(model, "trace", lambda tokens: {"logits": model(tokens)})
    with recipe.autocast(tokens.device):
        traced: Mapping[str, Tensor] = trace(tokens)
    for name, tensor in traced.items():
        if not bool(torch.isfinite(tensor).all()):
            return name
    with recipe.autocast(tokens.device):
        logits = model(tokens).to(next(model.parameters()).dtype)
    loss = replica_losses(logits.unsqueeze(0), labels.unsqueeze(0), recipe)
    if not bool(torch.isfinite(loss).all()):
        return "loss"
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad(loss.sum(), list(model.parameters()))
    for name, gradient in zip(names, gradients, strict=True):
        if not bool(torch.isfinite(gradient).all()):
            return f"gradient of {name}"
    return UNREPEATED

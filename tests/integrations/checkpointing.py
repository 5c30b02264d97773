"""Gradients of models of transformers whose layers are run again for them."""

from typing import Any

from torch import Tensor

from keelback.integrations import use_in_transformers


def with_and_without(model: Any, tokens: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """By keelback, with checkpoints whose layers are run again after it was undone, and without."""

    def gradients() -> list[Tensor]:
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    with use_in_transformers():
        model(tokens, use_cache=False).logits.square().mean().backward()
    expected = gradients()
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with use_in_transformers():
        loss = model(tokens, use_cache=False).logits.square().mean()
    loss.backward()
    return gradients(), expected

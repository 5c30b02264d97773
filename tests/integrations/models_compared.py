"""What a model of transformers gives, in training and generation, and whether two are alike."""

from typing import Any

import torch
from torch import Tensor


def results(model: Any, tokens: Tensor, **options: Any) -> list[Tensor]:
    """Logits, gradients, and the logits of generation."""
    model.zero_grad()
    logits = model(tokens, use_cache=False, **options).logits
    logits.square().mean().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    with torch.no_grad():
        generated = model.eval().generate(
            tokens[:, :20],
            max_new_tokens=6,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return [logits.detach(), *gradients, torch.stack(generated.logits)]


def close(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        size = float(other.abs().max())
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * max(size, 1e-3))

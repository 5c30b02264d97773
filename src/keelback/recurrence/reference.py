"""The diagonal recurrence as it is defined, step by step."""

import torch
from jaxtyping import Float
from torch import Tensor


def diagonal_recurrence_reference(
    a: Float[Tensor, "batch length channels"],
    x: Float[Tensor, "batch length channels"],
    initial_state: Float[Tensor, "batch channels"],
) -> Float[Tensor, "batch length channels"]:
    """h_t = a_t h_{t-1} + x_t; all operands are of one dtype."""
    state, found = initial_state, []
    for decay, new in zip(a.unbind(1), x.unbind(1), strict=True):
        state = decay * state + new
        found.append(state)
    return torch.stack(found, 1) if found else x.clone()

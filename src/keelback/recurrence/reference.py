"""The diagonal recurrence and the mLSTM as they are defined, step by step."""

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


def mlstm_reference(
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    log_input: Float[Tensor, "batch length heads"],
    log_forget: Float[Tensor, "batch length heads"],
    memory: Float[Tensor, "batch heads key value"],
    normaliser: Float[Tensor, "batch heads key"],
    exponent: Float[Tensor, "batch heads"],
    epsilon: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs and last states of the mLSTM, stabilised as its authors do (arXiv 2405.04517).

    The queries are taken as they are. Differentiable by autograd in every operand.
    """
    found = []
    for t in range(v.shape[1]):
        largest = torch.maximum(log_forget[:, t] + exponent, log_input[:, t])
        forget = torch.exp(log_forget[:, t] + exponent - largest).unsqueeze(-1)
        write = torch.exp(log_input[:, t] - largest).unsqueeze(-1) * k[:, t]
        memory = forget.unsqueeze(-1) * memory + write.unsqueeze(-1) * v[:, t].unsqueeze(-2)
        normaliser, exponent = forget * normaliser + write, largest
        above = (memory * q[:, t].unsqueeze(-1)).sum(-2)
        below = torch.maximum((normaliser * q[:, t]).sum(-1).abs(), torch.exp(-exponent))
        found.append(above / (below + epsilon).unsqueeze(-1))
    return torch.stack(found, 1) if found else v.clone(), memory, normaliser, exponent

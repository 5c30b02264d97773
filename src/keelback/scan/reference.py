"""The selective scan, written as its definition: one step of the recurrence after another."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def selective_scan_reference(
    u: Float[Tensor, "batch length channels"],
    delta: Float[Tensor, "batch length #channels"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "batch length groups state"],
    C: Float[Tensor, "batch length groups state"],
    D: Float[Tensor, " channels"] | None = None,
    z: Float[Tensor, "batch length channels"] | None = None,
    delta_bias: Float[Tensor, " #channels"] | None = None,
    delta_softplus: bool = False,
    initial_state: Float[Tensor, "batch channels state"] | None = None,
    reset: Bool[Tensor, "batch length"] | None = None,
) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch channels state"]]:
    """Output and last state of `h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t`, `y_t = C_t . h_t`.

    Differentiable by autograd in every floating input, and exact in the dtype it is given: run it
    in float64 as the oracle of every other backend. Source: Gu and Dao 2023 (arXiv 2312.00752),
    Algorithm 2 with the zero-order hold on A and Euler's rule on B.
    """
    batch, length, channels = u.shape
    groups = B.shape[2]
    if delta_bias is not None:
        delta = delta + delta_bias
    if delta_softplus:
        delta = F.softplus(delta)
    delta = delta.expand(batch, length, channels)
    B = B.repeat_interleave(channels // groups, dim=2)
    C = C.repeat_interleave(channels // groups, dim=2)
    h = u.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state
    outputs = []
    for t in range(length):
        if reset is not None:
            h = torch.where(reset[:, t, None, None], torch.zeros_like(h), h)
        step = delta[:, t, :, None]
        h = torch.exp(step * A) * h + step * u[:, t, :, None] * B[:, t]
        outputs.append((h * C[:, t]).sum(-1))
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(u)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * F.silu(z)
    return y, h


def selective_scan_step_reference(
    u: Float[Tensor, "batch channels"],
    delta: Float[Tensor, "batch #channels"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "batch groups state"],
    C: Float[Tensor, "batch groups state"],
    D: Float[Tensor, " channels"] | None,
    z: Float[Tensor, "batch channels"] | None,
    delta_bias: Float[Tensor, " channels"] | None,
    state: Float[Tensor, "batch channels state"],
    delta_softplus: bool = False,
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, "batch channels state"]]:
    """One step of `selective_scan_reference`: the output, and the state after it."""
    if delta_bias is not None:
        delta = delta + delta_bias
    if delta_softplus:
        delta = F.softplus(delta)
    B, C = (x.repeat_interleave(u.shape[1] // x.shape[1], dim=1) for x in (B, C))
    h = torch.exp(delta.unsqueeze(-1) * A) * state + (delta * u).unsqueeze(-1) * B
    y = (h * C).sum(-1)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * F.silu(z)
    return y, h

"""Mamba-2's scan by heads, written as its definition: one step of the recurrence after another."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

DtLimit = tuple[float, float]
NO_LIMIT: DtLimit = (0.0, float("inf"))


def steps_of(
    dt: Float[Tensor, "*rows heads"],
    dt_bias: Float[Tensor, " heads"] | None,
    dt_softplus: bool,
    dt_limit: DtLimit,
) -> Float[Tensor, "*rows heads"]:
    """The step sizes: `dt` plus the bias, through softplus, clamped to the limits."""
    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = F.softplus(dt)
    return dt.clamp(*dt_limit)


def with_skip_and_gate(
    y: Float[Tensor, "*rows heads head_dim"],
    x: Float[Tensor, "*rows heads head_dim"],
    D: Tensor | None,
    z: Tensor | None,
) -> Float[Tensor, "*rows heads head_dim"]:
    """(y + D x) silu(z); D is (heads,) or (heads, head_dim)."""
    if D is not None:
        y = y + (D.unsqueeze(-1) if D.ndim == 1 else D) * x
    return y if z is None else y * F.silu(z)


def ssd_reference(
    x: Float[Tensor, "batch length heads head_dim"],
    dt: Float[Tensor, "batch length heads"],
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "batch length groups state"],
    C: Float[Tensor, "batch length groups state"],
    D: Float[Tensor, " heads"] | Float[Tensor, "heads head_dim"] | None = None,
    z: Float[Tensor, "batch length heads head_dim"] | None = None,
    dt_bias: Float[Tensor, " heads"] | None = None,
    initial_states: Float[Tensor, "batch heads head_dim state"] | None = None,
    reset: Bool[Tensor, "batch length"] | None = None,
    dt_softplus: bool = False,
    dt_limit: DtLimit = NO_LIMIT,
) -> tuple[
    Float[Tensor, "batch length heads head_dim"], Float[Tensor, "batch heads head_dim state"]
]:
    """Output and last state of `h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T`, `y_t = h_t C_t`.

    Differentiable by autograd in every floating input, and exact in the dtype it is given: run it
    in float64 as the oracle of every other backend. Source: Dao and Gu 2024 (arXiv 2405.21060),
    equation 1 with the scalar times identity of its section 3.
    """
    batch, length, heads, head_dim = x.shape
    per_group = heads // B.shape[2]
    dt = steps_of(dt, dt_bias, dt_softplus, dt_limit)
    B, C = (one.repeat_interleave(per_group, dim=2) for one in (B, C))
    h = x.new_zeros(batch, heads, head_dim, B.shape[3])
    if initial_states is not None:
        h = initial_states
    outputs = []
    for t in range(length):
        if reset is not None:
            h = torch.where(reset[:, t, None, None, None], torch.zeros_like(h), h)
        decay = torch.exp(dt[:, t] * A)[..., None, None]
        h = decay * h + (dt[:, t, :, None] * x[:, t]).unsqueeze(-1) * B[:, t].unsqueeze(-2)
        outputs.append((h * C[:, t].unsqueeze(-2)).sum(-1))
    y = torch.stack(outputs, dim=1) if outputs else torch.zeros_like(x)
    return with_skip_and_gate(y, x, D, z), h


def ssd_step_reference(
    x: Float[Tensor, "batch heads head_dim"],
    dt: Float[Tensor, "batch heads"],
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "batch groups state"],
    C: Float[Tensor, "batch groups state"],
    D: Float[Tensor, " heads"] | Float[Tensor, "heads head_dim"] | None,
    z: Float[Tensor, "batch heads head_dim"] | None,
    dt_bias: Float[Tensor, " heads"] | None,
    states: Float[Tensor, "batch heads head_dim state"],
    dt_softplus: bool = False,
    dt_limit: DtLimit = NO_LIMIT,
) -> tuple[Float[Tensor, "batch heads head_dim"], Float[Tensor, "batch heads head_dim state"]]:
    """One step of `ssd_reference`: the output and the states after it."""
    per_group = x.shape[1] // B.shape[1]
    dt = steps_of(dt, dt_bias, dt_softplus, dt_limit)
    B, C = (one.repeat_interleave(per_group, dim=1) for one in (B, C))
    decay = torch.exp(dt * A)[..., None, None]
    h = decay * states + (dt.unsqueeze(-1) * x).unsqueeze(-1) * B.unsqueeze(-2)
    return with_skip_and_gate((h * C.unsqueeze(-2)).sum(-1), x, D, z), h


def gated_linear_attention_reference(
    q: Float[Tensor, "batch length groups key"],
    k: Float[Tensor, "batch length groups key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads"] | Float[Tensor, "batch length heads key"],
    weights: Float[Tensor, "batch length heads"] | None = None,
    initial_states: Float[Tensor, "batch heads value key"] | None = None,
    reset: Bool[Tensor, "batch length"] | None = None,
) -> tuple[Float[Tensor, "batch length heads value"], Float[Tensor, "batch heads value key"]]:
    """Output and last state of `h_t = h_{t-1} diag(exp(g_t)) + w_t v_t k_t^T`, `y_t = h_t q_t`.

    Differentiable by autograd in every floating input, and exact in the dtype it is given.
    """
    batch, length, heads, value = v.shape
    q, k = (one.repeat_interleave(heads // k.shape[2], dim=2) for one in (q, k))
    x = v if weights is None else v * weights.unsqueeze(-1)
    decays = torch.exp(g if g.ndim == v.ndim else g.unsqueeze(-1)).unsqueeze(-2)
    h = v.new_zeros(batch, heads, value, k.shape[3]) if initial_states is None else initial_states
    outputs = []
    for t in range(length):
        if reset is not None:
            h = torch.where(reset[:, t, None, None, None], torch.zeros_like(h), h)
        h = decays[:, t] * h + x[:, t].unsqueeze(-1) * k[:, t].unsqueeze(-2)
        outputs.append((h * q[:, t].unsqueeze(-2)).sum(-1))
    return (torch.stack(outputs, dim=1) if outputs else torch.zeros_like(v)), h

"""The gated delta rule, written as its definition: one step of the recurrence after another."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Added to the sum of squares under the root where q and k are normalised.
NORM_EPSILON = 1e-6


def normalised(x: Float[Tensor, "*rows key"]) -> Float[Tensor, "*rows key"]:
    """x / sqrt(|x|^2 + 1e-6), as layers of this kind normalise their queries and keys."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + NORM_EPSILON)


def delta_rule_reference(
    q: Float[Tensor, "batch length groups key"],
    k: Float[Tensor, "batch length groups key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads"] | Float[Tensor, "batch length heads key"],
    beta: Float[Tensor, "batch length heads"],
    initial_states: Float[Tensor, "batch heads key value"] | None = None,
    reset: Bool[Tensor, "batch length"] | None = None,
    normalise: bool = False,
    scale: float | None = None,
) -> tuple[Float[Tensor, "batch length heads value"], Float[Tensor, "batch heads key value"]]:
    """Output and last state of `h_t = (I - beta_t k_t k_t^T) exp(g_t) h_{t-1} + beta_t k_t v_t^T`,
    `y_t = scale h_t^T q_t`.

    Differentiable by autograd in every floating input, and exact in the dtype it is given: run it
    in float64 as the oracle of every other backend. Source: Yang, Kautz and Hatamizadeh 2024
    (arXiv 2412.06464), equation 10; with a decay per key channel, Kimi Linear (arXiv 2510.26692),
    equation 1.
    """
    batch, length, heads, value = v.shape
    key, per_group = k.shape[-1], heads // k.shape[2]
    if normalise:
        q, k = normalised(q), normalised(k)
    q = q * (key**-0.5 if scale is None else scale)
    q, k = (one.repeat_interleave(per_group, dim=2) for one in (q, k))
    decays = torch.exp(g if g.ndim == 4 else g.unsqueeze(-1)).unsqueeze(-1)
    h = v.new_zeros(batch, heads, key, value) if initial_states is None else initial_states
    outputs = []
    for t in range(length):
        if reset is not None:
            h = torch.where(reset[:, t, None, None, None], torch.zeros_like(h), h)
        h = decays[:, t] * h
        error = v[:, t] - (k[:, t].unsqueeze(-1) * h).sum(-2)
        h = h + k[:, t].unsqueeze(-1) * (beta[:, t].unsqueeze(-1) * error).unsqueeze(-2)
        outputs.append((q[:, t].unsqueeze(-1) * h).sum(-2))
    return (torch.stack(outputs, dim=1) if outputs else torch.zeros_like(v)), h


def delta_rule_step_reference(
    q: Float[Tensor, "batch groups key"],
    k: Float[Tensor, "batch groups key"],
    v: Float[Tensor, "batch heads value"],
    g: Float[Tensor, "batch heads"] | Float[Tensor, "batch heads key"],
    beta: Float[Tensor, "batch heads"],
    states: Float[Tensor, "batch heads key value"],
    normalise: bool = False,
    scale: float | None = None,
) -> tuple[Float[Tensor, "batch heads value"], Float[Tensor, "batch heads key value"]]:
    """One step of `delta_rule_reference`: the output and the states after it."""
    per_group = v.shape[1] // k.shape[1]
    if normalise:
        q, k = normalised(q), normalised(k)
    q = q * (k.shape[-1] ** -0.5 if scale is None else scale)
    if per_group > 1:
        q, k = (one.repeat_interleave(per_group, dim=1) for one in (q, k))
    h = states * torch.exp(g if g.ndim == 3 else g.unsqueeze(-1)).unsqueeze(-1)
    error = v.unsqueeze(-2) - k.unsqueeze(-2) @ h
    h = torch.addcmul(h, k.unsqueeze(-1), beta[..., None, None] * error)
    return (q.unsqueeze(-2) @ h).squeeze(-2), h


def generalised_delta_rule_reference(
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    a: Float[Tensor, "batch length heads key"],
    b: Float[Tensor, "batch length heads key"],
    g: Float[Tensor, "batch length heads key"],
    initial_states: Float[Tensor, "batch heads key value"] | None = None,
    reset: Bool[Tensor, "batch length"] | None = None,
) -> tuple[Float[Tensor, "batch length heads value"], Float[Tensor, "batch heads key value"]]:
    """Output and last state of `h_t = (diag(exp(g_t)) + b_t a_t^T) h_{t-1} + k_t v_t^T`,
    `y_t = h_t^T q_t`.

    Differentiable by autograd in every floating input, and exact in the dtype it is given. Source:
    Peng et al. 2025 (arXiv 2503.14456), whose state is the transpose of h.
    """
    batch, length, heads, value = v.shape
    h = v.new_zeros(batch, heads, k.shape[3], value) if initial_states is None else initial_states
    outputs = []
    for t in range(length):
        if reset is not None:
            h = torch.where(reset[:, t, None, None, None], torch.zeros_like(h), h)
        read = (a[:, t].unsqueeze(-1) * h).sum(-2)
        h = torch.exp(g[:, t]).unsqueeze(-1) * h + b[:, t].unsqueeze(-1) * read.unsqueeze(-2)
        h = h + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        outputs.append((q[:, t].unsqueeze(-1) * h).sum(-2))
    return (torch.stack(outputs, dim=1) if outputs else torch.zeros_like(v)), h

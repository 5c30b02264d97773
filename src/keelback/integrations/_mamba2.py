"""The scan of transformers' Mamba-2 layers, by keelback's kernels."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.integrations._packed import reset_of
from keelback.integrations._widths import in_one_width
from keelback.scan import selective_scan


def scan_by_heads(
    hidden_states: Float[Tensor, "batch length heads head_dim"],
    dt: Float[Tensor, "batch length heads"],
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "batch length groups state"],
    C: Float[Tensor, "batch length groups state"],
    chunk_size: int | None = None,
    D: Float[Tensor, " heads"] | None = None,
    dt_bias: Float[Tensor, " heads"] | None = None,
    initial_states: Float[Tensor, "batch heads head_dim state"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **options: Any,
) -> (
    Float[Tensor, "batch length heads head_dim"]
    | tuple[
        Float[Tensor, "batch length heads head_dim"], Float[Tensor, "batch heads head_dim state"]
    ]
):
    """`mamba2_chunk_scan` of transformers as a selective scan whose channels share a head's rate.

    Source: Dao and Gu 2024 (arXiv 2405.21060), where A is a scalar times the identity.
    `chunk_size` has no effect. Packed sequences are kept apart.
    """
    batch, length, heads, head_dim = hidden_states.shape
    reset = reset_of(options, batch, length)
    dtype = torch.float64 if hidden_states.dtype == torch.float64 else torch.float32
    step = dt.to(dtype) if dt_bias is None else dt.to(dtype) + dt_bias.to(dtype)
    step = (F.softplus(step) if dt_softplus else step).clamp(*dt_limit)
    u, step, A, B, C, D = in_one_width(
        hidden_states.flatten(2),
        step.repeat_interleave(head_dim, dim=-1),
        A.to(dtype).repeat_interleave(head_dim)[:, None].expand(-1, B.shape[-1]).contiguous(),
        B,
        C,
        None if D is None else D.repeat_interleave(head_dim),
    )
    y, last_state = selective_scan(
        u,
        step,
        A,
        B,
        C,
        D,
        initial_state=None if initial_states is None else initial_states.flatten(1, 2).to(dtype),
        return_last_state=True,
        reset=reset,
    )
    y = y.unflatten(-1, (heads, head_dim))
    return (y, last_state.unflatten(1, (heads, head_dim))) if return_final_states else y

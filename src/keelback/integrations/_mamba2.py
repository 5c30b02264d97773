"""The scan and the step of transformers' Mamba-2 layers, by keelback's kernels."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from keelback.integrations._packed import reset_of
from keelback.integrations._widths import in_one_width
from keelback.scan._mamba_ssm import update_by_heads
from keelback.ssd import ssd
from keelback.ssd._operands import Operands


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
    z: Float[Tensor, "batch length heads head_dim"] | None = None,
    **options: Any,
) -> (
    Float[Tensor, "batch length heads head_dim"]
    | tuple[
        Float[Tensor, "batch length heads head_dim"], Float[Tensor, "batch heads head_dim state"]
    ]
):
    """`mamba2_chunk_scan` of transformers; `chunk_size` has no effect, packed sequences are kept
    apart."""
    reset = reset_of(options, *hidden_states.shape[:2])
    x, dt, A, B, C, D, z, dt_bias, states = in_one_width(
        hidden_states, dt, A, B, C, D, z, dt_bias, initial_states
    )
    return ssd(
        x,
        dt,
        A,
        B,
        C,
        D,
        z,
        dt_bias,
        dt_softplus,
        dt_limit,
        states,
        return_final_states,
        reset=reset,
    )


def step_by_heads(
    state: Float[Tensor, "batch heads head_dim state"],
    hidden_states: Float[Tensor, "batch heads head_dim"],
    dt: Float[Tensor, "batch heads head_dim"],
    A: Float[Tensor, "heads head_dim state"],
    B: Float[Tensor, "batch groups state"],
    C: Float[Tensor, "batch groups state"],
    D: Float[Tensor, "heads head_dim"] | None = None,
    dt_bias: Float[Tensor, "heads head_dim"] | None = None,
    dt_softplus: bool = False,
    z: Float[Tensor, "batch heads head_dim"] | None = None,
    **options: Any,
) -> Float[Tensor, "batch heads head_dim"]:
    """`mamba2_selective_state_update` of transformers: overwrites `state`."""
    x, dt, A, B, C, D, z, dt_bias = in_one_width(hidden_states, dt, A, B, C, D, z, dt_bias)
    return update_by_heads(Operands(x, dt, A, B, C, D, z, dt_bias, state), dt_softplus)

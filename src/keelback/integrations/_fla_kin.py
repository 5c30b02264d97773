"""Functions of flash-linear-attention (fla) for RWKV-7 and for linear attention, by keelback."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.delta import generalised_delta_rule, generalised_delta_rule_step
from keelback.errors import InputError
from keelback.integrations._fla_calls import called
from keelback.integrations._stand_in import Contents
from keelback.ssd import gated_linear_attention, gated_linear_attention_step


def contents() -> Contents:
    """The functions, by the modules of fla that have them."""
    return {
        "fla.ops.generalized_delta_rule": {
            "chunk_dplr_delta_rule": partial(_dplr, "chunk_dplr_delta_rule"),
            "fused_recurrent_dplr_delta_rule": partial(_dplr, "fused_recurrent_dplr_delta_rule"),
            "chunk_iplr_delta_rule": partial(_iplr, "chunk_iplr_delta_rule"),
            "fused_recurrent_iplr_delta_rule": partial(_iplr, "fused_recurrent_iplr_delta_rule"),
        },
        "fla.ops.rwkv7": {
            "chunk_rwkv7": chunk_rwkv7,
            "fused_recurrent_rwkv7": fused_recurrent_rwkv7,
            "fused_mul_recurrent_rwkv7": fused_mul_recurrent_rwkv7,
        },
        "fla.ops.simple_gla": {
            name: partial(_simple_gla, name)
            for name in ("chunk_simple_gla", "fused_chunk_simple_gla", "fused_recurrent_simple_gla")
        },
        "fla.ops.retention": {
            name: partial(_retention, name)
            for name in ("chunk_retention", "fused_chunk_retention", "fused_recurrent_retention")
        },
        "fla.ops.lightning_attn": {
            name: partial(_lightning, name)
            for name in ("chunk_lightning_attn", "fused_recurrent_lightning_attn")
        },
    }


def _dplr(
    name: str,
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    a: Float[Tensor, "batch length heads key"],
    b: Float[Tensor, "batch length heads key"],
    gk: Float[Tensor, "batch length heads key"],
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Any:
    """The generalised delta rule. A lower bound only promises how small the log decays are."""
    options.pop("lower_bound", None)
    q = q.to(_wide(q)) * (k.shape[-1] ** -0.5 if scale is None else scale)
    operands = (q, k, v, a, b, gk)
    return called(name, _generalised, operands, v, initial_state, output_final_state, options)


def _iplr(
    name: str,
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    a: Float[Tensor, "batch length heads key"],
    b: Float[Tensor, "batch length heads key"],
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Any:
    """The same without decay."""
    still = torch.zeros_like(k)
    return _dplr(name, q, k, v, a, b, still, scale, initial_state, output_final_state, **options)


def chunk_rwkv7(
    r: Float[Tensor, "batch length heads key"],
    w: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    a: Float[Tensor, "batch length heads key"],
    b: Float[Tensor, "batch length heads key"],
    scale: float | None = 1.0,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Any:
    """RWKV-7, of which w is the log decay: the output, and the final states or None."""
    given = (r, k, v, a, b, w, scale, initial_state, output_final_state)
    return _dplr("chunk_rwkv7", *given, **options)


def fused_recurrent_rwkv7(
    r: Float[Tensor, "batch length heads key"],
    w: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    a: Float[Tensor, "batch length heads key"],
    b: Float[Tensor, "batch length heads key"],
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = True,
    **options: Any,
) -> Any:
    """The same; as in fla it scales r by default, and gives the final states."""
    given = (r, k, v, a, b, w, scale, initial_state, output_final_state)
    return _dplr("fused_recurrent_rwkv7", *given, **options)


def fused_mul_recurrent_rwkv7(
    r: Float[Tensor, "batch length heads key"],
    w: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    kk: Float[Tensor, "batch length heads key"],
    a: Float[Tensor, "batch length heads key"],
    scale: float | None = 1.0,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Any:
    """The same from the removal key and the in-context learning rates."""
    given = (r, k, v, -kk, kk * a, w, scale, initial_state, output_final_state)
    return _dplr("fused_mul_recurrent_rwkv7", *given, **options)


def _generalised(
    given: Sequence[Tensor], states: Tensor | None, bounds: Tensor | None
) -> tuple[Tensor, Tensor]:
    if given[2].shape[1] == 1 and states is not None:
        y, last = generalised_delta_rule_step(states, *(x.squeeze(1) for x in given))
        return y.unsqueeze(1), last
    q, k, v, a, b, g = given
    results = generalised_delta_rule(q, k, v, a, b, g, states, True, cu_seqlens=bounds)
    assert isinstance(results, tuple)
    return results


def _simple_gla(
    name: str,
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads"] | None = None,
    g_gamma: Float[Tensor, " heads"] | None = None,
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Any:
    """Gated linear attention; log decays for each step, or for each head, or none."""
    if g is not None and g_gamma is not None:
        raise InputError(f"{name} is given g and g_gamma; it takes one of the two")
    if g is None:
        constant = v.new_zeros(v.shape[2]) if g_gamma is None else g_gamma
        g = constant.expand(v.shape[:-1])
    q = q.to(_wide(q)) * (k.shape[-1] ** -0.5 if scale is None else scale)
    operands = (q, k, v, g)
    return called(name, _gated, operands, v, initial_state, output_final_state, options)


def _retention(
    name: str,
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Any:
    """RetNet's retention: head h keeps 1 - 2^(-5 - h) of its state in each step."""
    heads = torch.arange(q.shape[2], dtype=torch.float64, device=q.device)
    gamma = torch.log1p(-torch.exp2(-5.0 - heads)).to(_wide(v))
    return _simple_gla(
        name, q, k, v, None, gamma, scale, initial_state, output_final_state, **options
    )


def _lightning(
    name: str,
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Any:
    """Lightning attention: slopes of 8 / heads times the head's number, less in later layers."""
    heads = torch.arange(q.shape[2], dtype=_wide(v), device=q.device)
    gamma = -(8 / q.shape[2] * (1 - layer_idx / num_layers)) * heads
    return _simple_gla(
        name, q, k, v, None, gamma, scale, initial_state, output_final_state, **options
    )


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _gated(
    given: Sequence[Tensor], states: Tensor | None, bounds: Tensor | None
) -> tuple[Tensor, Tensor]:
    before = None if states is None else states.mT
    if given[2].shape[1] == 1 and before is not None:
        y, last = gated_linear_attention_step(before, *(x.squeeze(1) for x in given))
        return y.unsqueeze(1), last.mT
    q, k, v, g = given
    results = gated_linear_attention(q, k, v, g, None, before, True, cu_seqlens=bounds)
    assert isinstance(results, tuple)
    y, last = results
    return y, last.mT

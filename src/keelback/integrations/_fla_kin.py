"""Functions of flash-linear-attention (fla) for the generalised delta rule and RWKV-7."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.delta import generalised_delta_rule, generalised_delta_rule_step
from keelback.integrations._fla_calls import called, wide
from keelback.integrations._stand_in import Contents


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
    q = q.to(wide(q)) * (k.shape[-1] ** -0.5 if scale is None else scale)
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

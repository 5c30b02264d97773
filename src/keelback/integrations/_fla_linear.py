"""Functions of flash-linear-attention (fla) for linear attention whose memory decays or not."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.errors import InputError
from keelback.integrations._fla_calls import called, wide
from keelback.integrations._stand_in import Contents
from keelback.ssd import gated_linear_attention, gated_linear_attention_step

_SMALLEST_SUM = 1e-10
"""What fla adds to sums of weights before it divides by them."""


def contents() -> Contents:
    """The functions, by the modules of fla that have them."""
    every = ("chunk", "fused_chunk", "fused_recurrent")
    return {
        "fla.ops.simple_gla": {
            **_by_way(_simple_gla, "simple_gla", every),
            "parallel_simple_gla": parallel_simple_gla,
        },
        "fla.ops.retention": {
            **_by_way(_retention, "retention", every),
            "parallel_retention": parallel_retention,
        },
        "fla.ops.lightning_attn": _by_way(_lightning, "lightning_attn", every[::2]),
        "fla.ops.gla": {
            **_by_way(_gla, "gla", every[:2]),
            "fused_recurrent_gla": fused_recurrent_gla,
        },
        "fla.ops.linear_attn": {
            **_by_way(partial(_linear, True), "linear_attn", every[:2]),
            **_by_way(partial(_linear, False), "linear_attn", every[2:]),
        },
    }


def _by_way(function: Any, family: str, ways: Sequence[str]) -> dict[str, Any]:
    """A function that is given its name first, by its names: one per way in which fla computes."""
    return {f"{way}_{family}": partial(function, f"{way}_{family}") for way in ways}


def _simple_gla(
    name: str,
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads"] | Float[Tensor, "batch length heads key"] | None = None,
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
    q = q.to(wide(q)) * (k.shape[-1] ** -0.5 if scale is None else scale)
    operands = (q, k, v, g)
    return called(name, _gated, operands, v, initial_state, output_final_state, options)


def parallel_simple_gla(
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads"] | None = None,
    scale: float | None = None,
    output_attentions: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Float[Tensor, "batch heads length length"] | None]:
    """The same without states: the output, and the weights of the values in it or None."""
    return _parallel(
        "parallel_simple_gla", q, k, v, g, scale, output_attentions, cu_seqlens, options
    )


def parallel_retention(
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    scale: float | None = None,
    output_attentions: bool = False,
    cu_seqlens: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Float[Tensor, "batch heads length length"] | None]:
    """The same of RetNet's retention."""
    g = _log_decays_of_retention(q).expand(v.shape[:-1])
    return _parallel(
        "parallel_retention", q, k, v, g, scale, output_attentions, cu_seqlens, options
    )


def _parallel(
    name: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    scale: float | None,
    output_attentions: bool,
    cu_seqlens: Tensor | None,
    options: Mapping[str, Any],
) -> tuple[Tensor, Tensor | None]:
    y, _ = _simple_gla(name, q, k, v, g, scale=scale, cu_seqlens=cu_seqlens, **options)
    if not output_attentions:
        return y, None
    if cu_seqlens is not None:
        raise InputError(f"{name} is given cu_seqlens and output_attentions; it takes one of them")
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    weights = scale * q.to(wide(q)).transpose(1, 2) @ k.to(wide(q)).permute(0, 2, 3, 1)
    length = q.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    if g is not None:
        logs = g.double().cumsum(1).transpose(1, 2)
        between = (logs.unsqueeze(-1) - logs.unsqueeze(-2)).masked_fill(later, 0.0)
        weights = weights * between.exp().to(weights.dtype)
    return y, weights.masked_fill(later, 0.0).to(q.dtype)


def _gla(
    name: str,
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads key"],
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Any:
    """Gated linear attention with a log decay per key channel."""
    return _simple_gla(name, q, k, v, g, None, scale, initial_state, output_final_state, **options)


def fused_recurrent_gla(
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    gk: Float[Tensor, "batch length heads key"] | None = None,
    gv: None = None,
    scale: float | None = None,
    initial_state: Float[Tensor, "sequences heads *state"] | None = None,
    output_final_state: bool = False,
    **options: Any,
) -> Any:
    """The same, where the decay may be absent; one per value channel is refused."""
    return _simple_gla(
        "fused_recurrent_gla",
        *(q, k, v, gk, None, scale, initial_state, output_final_state),
        gv=gv is not None,
        **options,
    )


def _linear(
    normalised: bool,
    name: str,
    q: Float[Tensor, "batch length heads key"],
    k: Float[Tensor, "batch length heads key"],
    v: Float[Tensor, "batch length heads value"],
    scale: float | None = None,
    initial_state: Tensor | tuple[Tensor, Tensor] | None = None,
    output_final_state: bool = False,
    normalize: bool | None = None,
    **options: Any,
) -> Any:
    """Linear attention without decay.

    Normalised, the output is divided by the sum of its weights, and the sum of keys (sequences, 1,
    heads, key) is a second state.
    """
    for option in ("state_v_first", "transpose_state_layout"):
        if options.get(option):
            raise InputError(f"keelback's {name} does not take {option}")
    values, keys = initial_state if isinstance(initial_state, tuple) else (initial_state, None)
    run: Any = partial(_simple_gla, name, q, k, output_final_state=output_final_state, **options)
    if not (normalised if normalize is None else normalize):
        if keys is not None:
            raise InputError(f"{name} is given sums of keys in initial_state, but not normalize")
        return run(v, scale=scale, initial_state=values)
    # The sum of weights is what a further value gives that is always one.
    if values is not None:
        sums = values.new_zeros(values.shape[:-1]) if keys is None else keys.squeeze(1)
        values = torch.cat([values, sums.to(values.dtype).unsqueeze(-1)], -1)
    joined = torch.cat([v, torch.ones_like(v[..., :1])], -1).to(wide(v))
    y, last = run(joined, scale=scale, initial_state=values)
    y = (y[..., :-1] / (y[..., -1:] + _SMALLEST_SUM)).to(v.dtype)
    return y, None if last is None else (last[..., :-1], last[..., -1].unsqueeze(1))


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
    gamma = _log_decays_of_retention(q)
    return _simple_gla(
        name, q, k, v, None, gamma, scale, initial_state, output_final_state, **options
    )


def _log_decays_of_retention(q: Tensor) -> Float[Tensor, " heads"]:
    heads = torch.arange(q.shape[2], dtype=torch.float64, device=q.device)
    return torch.log1p(-torch.exp2(-5.0 - heads)).to(wide(q))


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
    heads = torch.arange(q.shape[2], dtype=wide(v), device=q.device)
    gamma = -(8 / q.shape[2] * (1 - layer_idx / num_layers)) * heads
    return _simple_gla(
        name, q, k, v, None, gamma, scale, initial_state, output_final_state, **options
    )


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

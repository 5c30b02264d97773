"""The causal convolution of transformers' Mamba layers, by keelback's kernels."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.conv import causal_conv1d, causal_conv1d_update
from keelback.integrations._packed import Reset, reset_of

_OURS = (None, "silu", "swish")


def causal_convolution(
    hidden_states: Float[Tensor, "batch channels length"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    activation: str | None = None,
    **options: Any,
) -> Float[Tensor, "batch channels length"]:
    """`causal_conv1d_fn` of transformers; packed sequences are kept apart."""
    batch, _, length = hidden_states.shape
    reset = reset_of(options, batch, length)
    if reset is not None:
        return _activated(_apart(hidden_states, weight, bias, reset), activation)
    fused: Any = activation if activation in _OURS else None
    y = causal_conv1d(hidden_states.mT, weight, bias, fused)
    assert isinstance(y, Tensor)
    return y.mT if activation in _OURS else _activated(y.mT, activation)


def convolution_update(
    hidden_states: Float[Tensor, "batch channels length"],
    conv_state: Float[Tensor, "batch channels past"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    activation: str | None = None,
) -> Float[Tensor, "batch channels length"]:
    """`causal_conv1d_update` of transformers: overwrites `conv_state`."""
    fused: Any = activation if activation in _OURS else None
    y = causal_conv1d_update(hidden_states, conv_state, weight, bias, fused)
    return y if activation in _OURS else _activated(y, activation)


def _apart(x: Tensor, weight: Tensor, bias: Tensor | None, reset: Reset) -> Tensor:
    """The convolution of each packed sequence by itself: taps stop where it begins."""
    sequence, width, length = reset.cumsum(1), weight.shape[-1], x.shape[-1]
    x_, weight_ = (own.float() if own.dtype != torch.float64 else own for own in (x, weight))
    y = x_ * weight_[:, -1, None]
    for back in range(1, min(width, length)):
        same = sequence[:, back:] == sequence[:, :-back]
        tap = x_[..., :-back] * weight_[:, -1 - back, None] * same.unsqueeze(1)
        y = y + F.pad(tap, (back, 0))
    return (y if bias is None else y + bias.to(y.dtype)[:, None]).to(x.dtype)


def _activated(y: Tensor, activation: str | None) -> Tensor:
    if activation is None:
        return y
    from transformers.activations import ACT2FN

    return ACT2FN[activation](y)

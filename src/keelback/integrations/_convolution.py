"""The causal convolution of transformers' Mamba layers, by keelback's kernels."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from keelback.conv import causal_conv1d, causal_conv1d_update
from keelback.integrations._packed import refuse_packed

_OURS = (None, "silu", "swish")


def causal_convolution(
    hidden_states: Float[Tensor, "batch channels length"],
    weight: Float[Tensor, "channels width"],
    bias: Float[Tensor, " channels"] | None = None,
    activation: str | None = None,
    **options: Any,
) -> Float[Tensor, "batch channels length"]:
    """`causal_conv1d_fn` of transformers."""
    refuse_packed(options)
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


def _activated(y: Tensor, activation: str | None) -> Tensor:
    from transformers.activations import ACT2FN

    return ACT2FN[activation](y)

"""What layers of flash-linear-attention (fla) do to positions: short convolutions and packing.

Layers that strike out padding and pack what is left are read with zeros at the padding, where
nothing is written and nothing decays.
"""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.audit.adapters.base import LayerCall

CONVOLUTIONS = ("q_conv1d", "k_conv1d", "v_conv1d")
"""Of queries, keys and values, where a layer has them."""


def convolved_at(call: LayerCall, module: Any, name: str, convolution: str | None) -> Tensor:
    """What a projection gave, after the short convolution and its activation if there are."""
    x = at_all_positions(call, call.seen[name].output)
    if convolution is None:
        return x
    conv: Any = getattr(module, convolution)
    mixed = F.conv1d(
        call.masked(x).mT,
        conv.weight,
        conv.bias,
        padding=conv.weight.shape[-1] - 1,
        groups=conv.weight.shape[0],
    )
    mixed = mixed[..., : x.shape[1]].mT
    return mixed if conv.activation is None else F.silu(mixed)


def at_all_positions(call: LayerCall, x: Tensor) -> Float[Tensor, "batch length width"]:
    """What is packed without padding, (1, tokens, width), where it was; zero at the padding."""
    batch, length = call.hidden_states.shape[:2]
    if call.mask is None or x.shape[:2] == (batch, length):
        return x
    found = x.new_zeros(batch, length, x.shape[-1])
    found[call.mask.bool()] = x[0]
    return found


def packed(call: LayerCall, y: Tensor) -> Tensor:
    """As the layer has it, where it has packed its input."""
    if call.mask is None or call.seen["q_proj"].output.shape[:2] == y.shape[:2]:
        return y
    return y[call.mask.bool()].unsqueeze(0)

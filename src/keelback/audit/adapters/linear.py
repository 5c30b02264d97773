"""Linear recurrences beside the Mambas: lightning attention and the RG-LRU."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.audit._recurrence import Recurrence, SelectiveRecurrence
from keelback.audit.adapters.base import Adapter, LayerCall, has_parts, wide

_SPEED = 8.0


class LightningAttentionAdapter(Adapter):
    """MiniMax: `S_t = exp(-slope) S_{t-1} + k_t v_t^T`, one slope a head, fixed by its place.

    Every step size is 1, and A is minus the slope, which the checkpoint does not hold: there is
    nothing to edit. Source: Qin et al. 2024 (arXiv 2401.04658).
    """

    kind = "lightning-attention"
    watched = ("qkv_proj", "output_gate")
    entry = "qkv_proj"
    parts = (*watched, "out_proj", "norm")
    decays_because = "A is minus slopes that are fixed"

    def matches(self, module: Any) -> bool:
        """Told by its projections and `slope_rate`."""
        return has_parts(module, *self.watched, "out_proj", "norm", "slope_rate", "head_dim")

    def always_decays(self, module: Any) -> bool:
        """Slopes are above 0."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """Minus the slopes, one a head."""
        return -wide(module.slope_rate.detach()).reshape(-1, 1)

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Queries, keys and values of each head, after their activation."""
        A = self.state_matrix(module)
        joined = call.masked(module.act_fn(call.seen["qkv_proj"].output))
        query, key, value = joined.unflatten(-1, (len(A), -1)).chunk(3, dim=-1)
        steps = torch.ones(*joined.shape[:2], len(A), device=joined.device)
        return SelectiveRecurrence(value.flatten(2), steps, A, key, query)

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The layer's norm, and its gate."""
        gate: Tensor = torch.sigmoid(call.seen["output_gate"].output)
        normed: Tensor = module.norm(outputs[0])
        return gate * normed


class GatedLinearUnitAdapter(Adapter):
    """RecurrentGemma's RG-LRU: `h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t` in each channel.

    `a_t = exp(-8 r_t softplus(c))`: the recurrence gate `r_t` is the step size, and A is
    `-8 softplus(c)`. Source: De et al. 2024 (arXiv 2402.19427), Section 2.4.
    """

    kind = "rg-lru"
    watched = ("linear_y", "rg_lru")
    entry = "linear_y"
    projection = "linear_out"
    parts = (*watched, "linear_x", "linear_out", "conv_1d")
    decays_because = "A is minus a softplus"

    def matches(self, module: Any) -> bool:
        """Told by an `rg_lru` with its three parameters."""
        return has_parts(module, *self.watched, "linear_x", "linear_out") and has_parts(
            module.rg_lru, "recurrent_param", "input_gate_weight", "recurrent_gate_weight"
        )

    def goes_on(self, module: Any, given: Mapping[str, Any]) -> bool:
        """Told by the states that the layer keeps in itself, unless it begins at position 0."""
        state, positions = module.rg_lru.recurrent_states, given.get("position_ids")
        begins = positions is not None and bool((positions[:, 0] == 0).all())
        if begins or not given.get("use_cache", True) or state is None:
            return False
        batch = len(next(iter(given.values())))
        return len(state) == batch and bool(state.any())

    def always_decays(self, module: Any) -> bool:
        """A is minus a softplus."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-8 softplus(recurrent_param)`."""
        return -_SPEED * F.softplus(wide(module.rg_lru.recurrent_param.detach()))[:, None]

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """The inverse of the softplus; how inputs are scaled follows A, as in the layer."""
        rates = -A[:, 0] / _SPEED
        return {"rg_lru.recurrent_param": rates + torch.log(-torch.expm1(-rates))}

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """The gates, and the inputs divided by the step sizes that the recurrence multiplies by."""
        unit, x = module.rg_lru, wide(call.seen["rg_lru"].input)
        write, steps = (
            torch.sigmoid(_by_blocks(x, wide(weight), wide(bias)))
            for weight, bias in (
                (unit.input_gate_weight, unit.input_gate_bias),
                (unit.recurrent_gate_weight, unit.recurrent_gate_bias),
            )
        )
        A = self.state_matrix(module)
        scale = torch.sqrt(-torch.expm1(2 * steps * A[:, 0]))
        scale[:, 0] = 1.0  # where a sequence begins, nothing is scaled
        once = torch.ones(*x.shape[:2], 1, 1, device=x.device, dtype=x.dtype)
        return SelectiveRecurrence(x * write * scale / steps, steps, A, once, once)

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The gate of the other branch."""
        gate: Tensor = module.act_fn(call.seen["linear_y"].output)
        return outputs[0] * gate


def _by_blocks(
    x: Float[Tensor, "batch length width"],
    weight: Float[Tensor, "blocks block block"],
    bias: Float[Tensor, "blocks block"],
) -> Float[Tensor, "batch length width"]:
    blocks = x.unflatten(-1, bias.shape)
    return (torch.einsum("blhi,hij->blhj", blocks, weight.detach()) + bias.detach()).flatten(2)

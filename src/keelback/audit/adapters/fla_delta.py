"""Delta rules of flash-linear-attention (fla): gated delta nets and Kimi delta attention."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.audit._continuing import goes_on_in_flas_cache
from keelback.audit._delta_rule import DeltaRuleRecurrence
from keelback.audit._recurrence import Recurrence
from keelback.audit.adapters.base import Adapter, LayerCall, has_parts, negative_exp, unit, wide
from keelback.audit.adapters.fla_positions import (
    CONVOLUTIONS,
    at_all_positions,
    convolved_at,
    packed,
)

_QUERIES_KEYS_VALUES = ("q_proj", "k_proj", "v_proj")


class _FlaDeltaAdapter(Adapter):
    """Queries, keys and values, all through SiLU, with keys shared by several value heads."""

    entry = "q_proj"
    projection = "o_proj"
    gates: tuple[str, ...]
    """Projections of what sets the step size, and of what is written."""

    def matches(self, module: Any) -> bool:
        """Told by its projections, and `A_log` and `dt_bias` of its own."""
        own = (*self.watched, "A_log", "dt_bias", "o_norm", "o_proj", "head_k_dim", "num_v_heads")
        return has_parts(module, *own) and not has_parts(module, "conv1d")

    def goes_on(self, module: Any, given: Mapping[str, Any]) -> bool | None:
        """Told by the layer's own entry in fla's cache."""
        return goes_on_in_flas_cache(module, given)

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential, or a bound below 0."""
        return True

    def steps(self, module: Any, logits: Tensor) -> Float[Tensor, "batch length rates"]:
        """Step sizes from what the first of the gates projects."""
        return F.softplus(wide(logits) + wide(module.dt_bias))

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of the delta rule; queries and keys repeated for the value heads they serve."""
        query, key, value = (
            self._projected(module, call, name, convolution)
            for name, convolution in zip(_QUERIES_KEYS_VALUES, CONVOLUTIONS, strict=True)
        )
        shared = module.num_v_heads // module.num_heads
        query, key = (
            unit(x.unflatten(-1, (module.num_heads, -1))).repeat_interleave(shared, dim=2)
            for x in (query, key)
        )
        step, write = (at_all_positions(call, call.seen[name].output) for name in self.gates)
        doubled = 2.0 if module.allow_neg_eigval else 1.0
        return DeltaRuleRecurrence(
            query / module.head_k_dim**0.5,
            key,
            value.unflatten(-1, (module.num_v_heads, -1)),
            call.masked(doubled * wide(write).sigmoid()),
            call.masked(self.steps(module, step)),
            self.state_matrix(module),
        )

    @staticmethod
    def _projected(module: Any, call: LayerCall, name: str, convolution: str) -> Tensor:
        if module.use_short_conv:
            return convolved_at(call, module, name, convolution)
        return F.silu(convolved_at(call, module, name, None))

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The layer's own norm of each head, and its gate if it has one."""
        y = outputs[0].to(call.seen["q_proj"].output.dtype).unflatten(-1, (module.num_v_heads, -1))
        if not has_parts(module, "g_proj"):
            return packed(call, module.o_norm(y).flatten(2))
        gate = module.g_proj(call.hidden_states).unflatten(-1, (module.num_v_heads, -1))
        return packed(call, module.o_norm(y, gate).flatten(2))


class FlaGatedDeltaNetAdapter(_FlaDeltaAdapter):
    """`GatedDeltaNet` in fla: one rate per value head.

    Source: Yang, Kautz and Hatamizadeh 2024 (arXiv 2412.06464).
    """

    kind = "gated-delta-net"
    gates = ("a_proj", "b_proj")
    watched = (*_QUERIES_KEYS_VALUES, *gates)
    parts = (*watched, "A_log", "dt_bias", "g_proj", "o_norm", "o_proj", *CONVOLUTIONS)

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(A_log)`, one rate per value head."""
        return negative_exp(module.A_log)[:, None]

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """`A_log = log(-A)`."""
        return {"A_log": torch.log(-A[:, 0])}


class FlaKimiDeltaAdapter(_FlaDeltaAdapter):
    """`KimiDeltaAttention` in fla: one rate per value head and key dimension.

    Where the forget gate has a lower bound, the bound stands as A, as in `KimiDeltaAdapter`.
    Source: Kimi Linear (arXiv 2510.26692).
    """

    kind = "kimi-delta-attention"
    gates = ("f_proj", "b_proj")
    watched = (*_QUERIES_KEYS_VALUES, *gates)
    parts = (*watched, "A_log", "dt_bias", "g_proj", "o_norm", "o_proj", *CONVOLUTIONS)
    decays_because = "A is minus an exponential, or a bound below 0"

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """Heads outermost."""
        if module.lower_bound is not None:
            bound = float(module.lower_bound)
            return torch.full((module.dt_bias.numel(), 1), bound, device=module.A_log.device)
        of_heads = negative_exp(module.A_log).reshape(-1, 1)
        return of_heads.repeat_interleave(module.head_k_dim, dim=0)

    def steps(self, module: Any, logits: Tensor) -> Float[Tensor, "batch length rates"]:
        """A softplus, or the sigmoid that the bound is multiplied by."""
        if module.lower_bound is None:
            return super().steps(module, logits)
        slope = wide(module.A_log).exp().repeat_interleave(module.head_k_dim)
        return torch.sigmoid(slope * (wide(logits) + wide(module.dt_bias)))

    def edit_rates(
        self, module: Any, A: Float[Tensor, "rates state"]
    ) -> Mapping[str, Tensor] | None:
        """A head has one `A_log` for all its key dimensions: that of the fastest of them."""
        if module.lower_bound is not None:
            return None
        fastest = A.reshape(module.A_log.numel(), -1).amin(-1)
        return {"A_log": torch.log(-fastest).reshape(module.A_log.shape)}

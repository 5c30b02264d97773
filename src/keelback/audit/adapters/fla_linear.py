"""Linear attention of flash-linear-attention (fla): GLA, simple GLA, retention and HGRN2."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from keelback.audit._continuing import goes_on_in_flas_cache
from keelback.audit._linear_attention import LinearAttentionRecurrence
from keelback.audit._recurrence import Recurrence
from keelback.audit.adapters.base import Adapter, LayerCall, has_parts, wide
from keelback.audit.adapters.fla_positions import (
    CONVOLUTIONS,
    at_all_positions,
    convolved_at,
    packed,
)

_NORMS = ("g_norm", "g_norm_swish_gate")
_OF_FORGET_GATES = ("o_proj", "gate_logit_normalizer", "head_k_dim", "num_kv_groups")


class _LinearAttentionAdapter(Adapter):
    """Queries, keys and values of each head, and log decays, which are 0 at padding."""

    entry = "q_proj"
    projection = "o_proj"

    def goes_on(self, module: Any, given: Mapping[str, Any]) -> bool | None:
        """Told by the layer's own entry in fla's cache."""
        return goes_on_in_flas_cache(module, given)

    def always_decays(self, module: Any) -> bool:
        """The forget gates are below 1."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """-1 for each rate: the forget gate alone says how fast it forgets."""
        return -torch.ones(self.rates(module), 1, device=module.o_proj.weight.device)

    def rates(self, module: Any) -> int:
        """How many there are: one per head and key dimension."""
        return int(module.num_heads * module.head_k_dim)

    def heads(self, module: Any, call: LayerCall) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of each head, as the layer's kernel is given them."""
        convolutions = CONVOLUTIONS if module.use_short_conv else (None, None, None)
        query, key, value = (
            convolved_at(call, module, name, convolution)
            for name, convolution in zip(("q_proj", "k_proj", "v_proj"), convolutions, strict=True)
        )
        query, key = (x.unflatten(-1, (-1, module.head_k_dim)) for x in (query, key))
        if module.feature_map_fn is not None:
            query, key = module.feature_map_fn(query), module.feature_map_fn(key)
        value = call.masked(value).unflatten(-1, (-1, module.head_v_dim))
        key, value = (x.repeat_interleave(module.num_kv_groups, dim=2) for x in (key, value))
        return query / module.head_k_dim**0.5, key, value

    def log_decays(self, module: Any, call: LayerCall) -> Float[Tensor, "batch length rates"]:
        """0 at padding."""
        raise NotImplementedError

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Operands of the kernel."""
        A = self.state_matrix(module)
        logs = self.log_decays(module, call)
        return LinearAttentionRecurrence(*self.heads(module, call), logs / A[:, 0], A)

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The layer's own norm of each head, and its gate if it has one."""
        y = outputs[0].to(call.seen["q_proj"].output.dtype).unflatten(-1, (module.num_heads, -1))
        if not has_parts(module, "g_proj"):
            return packed(call, module.g_norm(y).flatten(2))
        gate = module.g_proj(call.hidden_states)
        if has_parts(module, "g_norm_swish_gate"):
            y = module.g_norm_swish_gate(y, gate.unflatten(-1, (module.num_heads, -1)))
            return packed(call, y.flatten(2))
        return packed(call, module.g_norm(y).flatten(2) * module.gate_fn(gate))


class GatedLinearAttentionAdapter(_LinearAttentionAdapter):
    """`GatedLinearAttention` in fla: a forget gate per key dimension, the root of a sigmoid.

    Source: Yang et al. 2023 (arXiv 2312.06635).
    """

    kind = "gated-linear-attention"
    watched = ("q_proj", "k_proj", "v_proj", "gk_proj")
    parts = (*watched, "g_proj", "o_proj", *CONVOLUTIONS, *_NORMS)
    decays_because = "the forget gate is a root of a sigmoid"

    def matches(self, module: Any) -> bool:
        """Told by a forget gate of low rank and its root."""
        return has_parts(module, *self.watched, *_OF_FORGET_GATES) and isinstance(
            module.gk_proj, nn.Sequential
        )

    def log_decays(self, module: Any, call: LayerCall) -> Float[Tensor, "batch length rates"]:
        """The log of the sigmoid, divided, and clamped where the layer does."""
        logs = _log_gates(module, call.seen["gk_proj"].output)
        if module.clamp_min is not None:
            logs = logs.clamp_min(module.clamp_min)
        logs = call.masked(at_all_positions(call, logs)).unflatten(-1, (-1, module.head_k_dim))
        return logs.repeat_interleave(module.num_kv_groups, dim=2).flatten(2)


class SimpleGatedLinearAttentionAdapter(_LinearAttentionAdapter):
    """`SimpleGatedLinearAttention` in fla: the same with a forget gate per head."""

    kind = "simple-gated-linear-attention"
    watched = GatedLinearAttentionAdapter.watched
    parts = GatedLinearAttentionAdapter.parts
    decays_because = GatedLinearAttentionAdapter.decays_because

    def matches(self, module: Any) -> bool:
        """Told by a forget gate of one projection and its root."""
        return has_parts(module, *self.watched, *_OF_FORGET_GATES) and not isinstance(
            module.gk_proj, nn.Sequential
        )

    def rates(self, module: Any) -> int:
        """One per head."""
        return int(module.num_heads)

    def log_decays(self, module: Any, call: LayerCall) -> Float[Tensor, "batch length rates"]:
        """The log of the sigmoid, divided."""
        return call.masked(_log_gates(module, call.seen["gk_proj"].output))


class RetentionAdapter(_LinearAttentionAdapter):
    """`MultiScaleRetention` in fla, RetNet's: one rate per head, fixed by its place.

    Every step size is 1, and A is `log(1 - 2^(-5 - h))` in head h, which the checkpoint does not
    hold: there is nothing to edit. Source: Sun et al. 2023 (arXiv 2307.08621).
    """

    kind = "retention"
    watched = ("q_proj", "k_proj", "v_proj")
    parts = (*watched, "g_proj", "o_proj", "rotary", *CONVOLUTIONS, *_NORMS)
    decays_because = "A is fixed below 0"

    def matches(self, module: Any) -> bool:
        """Told by rotated queries and keys and a norm of each head."""
        own = (*self.watched, "o_proj", "rotary", "head_k_dim", "head_v_dim", "num_kv_groups")
        return has_parts(module, *own) and any(has_parts(module, norm) for norm in _NORMS)

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`log(1 - 2^(-5 - h))`."""
        heads = torch.arange(module.num_heads, dtype=torch.float64)
        rates = torch.log1p(-torch.exp2(-5.0 - heads))
        return rates.float().to(module.o_proj.weight.device)[:, None]

    def heads(self, module: Any, call: LayerCall) -> tuple[Tensor, Tensor, Tensor]:
        """With queries and keys rotated, by the layer's own module."""
        query, key, value = super().heads(module, call)
        query, key = module.rotary(query, key, seqlen_offset=0, max_seqlen=query.shape[1])
        return query, key, value

    def log_decays(self, module: Any, call: LayerCall) -> Float[Tensor, "batch length rates"]:
        """A at each position."""
        A = self.state_matrix(module)[:, 0]
        return call.masked(A.expand(*call.hidden_states.shape[:2], -1))


class Hgrn2Adapter(_LinearAttentionAdapter):
    """`HGRN2Attention` in fla: keys are what the forget gate of each key dimension leaves of 1.

    Source: Qin et al. 2024 (arXiv 2404.07904).
    """

    kind = "hgrn2"
    watched = ("q_proj", "f_proj", "i_proj")
    parts = (*watched, "o_proj", "g_norm", "q_conv1d", "f_conv1d", "i_conv1d")
    decays_because = "the forget gate is below 1"

    def matches(self, module: Any) -> bool:
        """Told by the projections of its forget and input gates."""
        own = (*self.watched, "o_proj", "g_norm", "head_f_dim", "head_i_dim")
        return has_parts(module, *own)

    def rates(self, module: Any) -> int:
        """One per head and key dimension."""
        return int(module.num_heads * module.head_f_dim)

    def log_decays(self, module: Any, call: LayerCall) -> Float[Tensor, "batch length rates"]:
        """The log of the forget gate, which has a lower bound in all layers but the first."""
        logs = F.logsigmoid(wide(self._given(module, call, "f")))
        bound = call.arguments.get("lower_bound")
        if isinstance(bound, Tensor) and module.layer_idx > 0:
            logs = torch.logaddexp(bound.log(), torch.log1p(-bound) + logs)
        return call.masked(logs)

    def heads(self, module: Any, call: LayerCall) -> tuple[Tensor, Tensor, Tensor]:
        """Keys are 1 minus the forget gate: 0 at padding."""
        query = F.silu(self._given(module, call, "q"))
        key = -torch.expm1(self.log_decays(module, call))
        value = call.masked(self._given(module, call, "i"))
        query, key, value = (x.unflatten(-1, (module.num_heads, -1)) for x in (query, key, value))
        return query / module.head_f_dim**0.5, key, value

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The norm of all heads together. A kernel computes it with the projection, in one."""
        weight, bias = module.g_norm.weight, getattr(module.g_norm, "bias", None)
        y = F.rms_norm(wide(outputs[0]), outputs[0].shape[-1:], eps=_EPSILON)
        y = y if weight is None else y * wide(weight)
        return call.masked(y if bias is None else y + wide(bias))

    @staticmethod
    def _given(module: Any, call: LayerCall, gate: str) -> Tensor:
        convolution = f"{gate}_conv1d" if module.use_short_conv else None
        return convolved_at(call, module, f"{gate}_proj", convolution)


_EPSILON = 1e-5
"""Of the fused norm and projection, whatever the norm's own module says."""


def _log_gates(module: Any, logits: Tensor) -> Tensor:
    return F.logsigmoid(wide(logits)) / module.gate_logit_normalizer

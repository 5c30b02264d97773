"""RWKV-7: one rate per head and key dimension, what is erased and what is written apart."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.audit._continuing import goes_on_in_flas_cache
from keelback.audit._generalised_rule import GeneralisedDeltaRecurrence
from keelback.audit._recurrence import Recurrence
from keelback.audit.adapters.base import Adapter, LayerCall, first_of, has_parts, unit, wide

_FASTEST = -math.exp(-0.5)
"""The log decay at which the sigmoid is 1."""


class _Operands(NamedTuple):
    """What the layer computes for its recurrence, each (batch, length, width)."""

    receptance: Tensor
    key: Tensor
    value: Tensor
    decay_logit: Tensor
    learning_rate: Tensor
    gate: Tensor


class _Rwkv7Adapter(Adapter):
    """RWKV-7's time mixing; the log decay is `-exp(-1/2) sigmoid(...)` in each key channel.

    The bound `-exp(-1/2)` stands as A and the sigmoid as delta: no weight holds a rate by itself,
    and there is nothing to edit. Source: Peng et al. 2025 (arXiv 2503.14456).
    """

    kind = "rwkv7"
    decays_because = "A is a bound below 0"
    enlarges_because = "RWKV-7 reads a state along one vector and erases along another"
    norm: str

    def matches(self, module: Any) -> bool:
        """Told by its projections and the vectors `k_k`, `k_a` and `r_k`."""
        own = ("k_k", "k_a", "r_k", self.norm, self.projection or "")
        return has_parts(module, *self.watched, *own)

    def always_decays(self, module: Any) -> bool:
        """The decay is a sigmoid times a bound below 0."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(-1/2)` in each head and key dimension, heads outermost."""
        return torch.full((module.r_k.numel(), 1), _FASTEST, device=module.r_k.device)

    def operands(self, module: Any, call: LayerCall) -> _Operands:
        """What the layer computes of its projections."""
        raise NotImplementedError

    def unit_keys(self, module: Any, x: Tensor) -> Tensor:
        """Keys of norm 1."""
        return F.normalize(wide(x), dim=-1)

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of the generalised delta rule."""
        own = self.operands(module, call)
        heads = len(module.r_k)
        removal = wide(own.key) * wide(module.k_k).flatten()
        kappa = self.unit_keys(module, removal.unflatten(-1, (heads, -1)))
        rate = wide(own.learning_rate).unflatten(-1, (heads, -1))
        receptance, value = (x.unflatten(-1, (heads, -1)) for x in (own.receptance, own.value))
        return GeneralisedDeltaRecurrence(
            receptance,
            _replacement(module, own),
            value,
            -kappa,
            rate * kappa,
            torch.sigmoid(wide(own.decay_logit)),
            self.state_matrix(module),
        )

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The layer's norm of each head, the bonus for the present token, and the gate."""
        own = self.operands(module, call)
        norm: Any = getattr(module, self.norm)
        y = outputs[0].to(own.receptance.dtype)
        if isinstance(norm, torch.nn.GroupNorm):
            normed = norm(y.flatten(0, 1)).reshape(y.shape)
        else:
            normed = norm(y)
        receptance = wide(own.receptance).unflatten(-1, (len(module.r_k), -1))
        along = (receptance * _replacement(module, own) * wide(module.r_k)).sum(-1, keepdim=True)
        bonus = along * wide(own.value).unflatten(-1, (len(module.r_k), -1))
        return (wide(normed) + bonus.flatten(2)) * wide(own.gate)


def _replacement(module: Any, own: _Operands) -> Float[Tensor, "batch length heads key_dim"]:
    """The keys along which values are written."""
    kept = 1 + (wide(own.learning_rate) - 1) * wide(module.k_a).flatten()
    return (wide(own.key) * kept).unflatten(-1, (len(module.r_k), -1))


def _with_first(call: LayerCall, value: Tensor, gate: Tensor) -> Tensor:
    """Values mixed with those of the model's first layer, which the layer is called with."""
    first = call.arguments.get("v_first")
    if not isinstance(first, Tensor):
        raise ValueError("it is called without v_first, the values of the model's first layer")
    return torch.lerp(wide(value), wide(first), wide(gate))


class FlaRwkv7Adapter(_Rwkv7Adapter):
    """`RWKV7Attention` in flash-linear-attention (fla)."""

    watched = ("r_proj", "k_proj", "v_proj", "w_lora", "a_lora", "g_lora")
    projection = "o_proj"
    norm = "g_norm"
    parts = (
        *(*watched, "v_lora", "o_proj", "g_norm", "k_k", "k_a", "r_k"),
        *("x_r", "x_w", "x_k", "x_v", "x_a", "x_g"),
    )

    def goes_on(self, module: Any, given: Mapping[str, Any]) -> bool | None:
        """Told by the layer's own entry in fla's cache."""
        return goes_on_in_flas_cache(module, given)

    def unit_keys(self, module: Any, x: Tensor) -> Tensor:
        """As the layer's fused norm does, or as torch does."""
        return unit(x) if getattr(module, "fuse_norm", False) else super().unit_keys(module, x)

    def operands(self, module: Any, call: LayerCall) -> _Operands:
        """The projections, and low-rank layers with their biases."""
        receptance, key, value, decay, rate, gate = (call.seen[n].output for n in self.watched)
        if has_parts(module, "v_lora"):
            mixing = torch.sigmoid(module.v_lora(call.seen["v_proj"].input))
            value = _with_first(call, value, mixing)
        return _Operands(receptance, key, call.masked(value), decay, torch.sigmoid(rate), gate)


class Rwkv7Adapter(_Rwkv7Adapter):
    """`RWKV_Tmix_x070` in RWKV-LM, the code of its authors, whose low-rank layers are matrices."""

    watched = ("receptance", "key", "value")
    projection = "output"
    norm = "ln_x"
    parts = (
        *(*watched, "output", "ln_x", "k_k", "k_a", "r_k", "w0", "w1", "w2", "a0", "a1", "a2"),
        *("v0", "v1", "v2", "g1", "g2", "x_r", "x_w", "x_k", "x_v", "x_a", "x_g"),
    )

    def matches(self, module: Any) -> bool:
        """Told by its low-rank matrices too."""
        return super().matches(module) and has_parts(module, "w0", "w1", "w2", "a0", "g1", "x_w")

    def operands(self, module: Any, call: LayerCall) -> _Operands:
        """The projections, and the low-rank layers of tokens mixed with those before them."""
        x = call.hidden_states
        step_back = F.pad(x, (0, 0, 1, -1)) - x
        to_decay, to_rate, to_gate = (
            x + step_back * weight for weight in (module.x_w, module.x_a, module.x_g)
        )
        receptance, key, value = (call.seen[name].output for name in self.watched)
        if first_of(module, "layer_id", "layer_idx", default=0) != 0:
            mixing = module.v0 + (call.seen["value"].input @ module.v1) @ module.v2
            value = _with_first(call, value, torch.sigmoid(mixing))
        return _Operands(
            receptance,
            key,
            value,
            module.w0 + torch.tanh(to_decay @ module.w1) @ module.w2,
            torch.sigmoid(module.a0 + (to_rate @ module.a1) @ module.a2),
            torch.sigmoid(to_gate @ module.g1) @ module.g2,
        )

"""Gated delta nets: layers that decay like Mamba-2 and erase along a key before they write."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.audit._delta_rule import DeltaRuleRecurrence
from keelback.audit._recurrence import Recurrence
from keelback.audit.adapters.base import (
    Adapter,
    LayerCall,
    convolved,
    has_parts,
    negative_exp,
    unit,
    wide,
)


class GatedDeltaNetAdapter(Adapter):
    """Gated delta nets: one rate a value head, `delta = softplus(a + dt_bias)`.

    The subclasses differ in how they project queries, keys, values and the two gates. Source: Yang,
    Kautz and Hatamizadeh 2024 (arXiv 2412.06464).
    """

    kind = "gated-delta-net"
    gated_norm: str = "norm"
    """The module that normalises each head's output and gates it."""

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential."""
        return True

    def matches(self, module: Any) -> bool:
        """Told by its watched projections, a `conv1d`, and vectors `A_log` and `dt_bias`."""
        return has_parts(module, *self.watched, "conv1d", "A_log", "dt_bias", "head_k_dim")

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(A_log)`, one rate a value head."""
        return negative_exp(module.A_log)[:, None]

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """`A_log = log(-A)`."""
        return {"A_log": torch.log(-A[:, 0])}

    def projections(self, module: Any, call: LayerCall) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values joined; the logit of beta; the logit of delta."""
        raise NotImplementedError

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of the delta rule, queries and keys repeated for the value heads they serve."""
        q_k_v, write_logit, step_logit = self.projections(module, call)
        query, key, value = _split_heads(module, q_k_v)
        doubled = 2.0 if getattr(module, "allow_neg_eigval", False) else 1.0
        return DeltaRuleRecurrence(
            query,
            key,
            value,
            doubled * write_logit.sigmoid(),
            F.softplus(wide(step_logit) + wide(module.dt_bias)),
            self.state_matrix(module),
        )

    def gate(self, module: Any, call: LayerCall) -> Tensor:
        """What the gated norm is given beside each head's output."""
        raise NotImplementedError

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The layer's own norm of each head's output and gate."""
        return _normed(getattr(module, self.gated_norm), outputs[0], self.gate(module, call))


class Qwen3NextAdapter(GatedDeltaNetAdapter):
    """Qwen3-Next: queries, keys, values and gate from one projection, interleaved by key head."""

    watched = ("in_proj_qkvz", "in_proj_ba")
    entry = "in_proj_qkvz"
    parts = (*watched, "conv1d", "A_log", "dt_bias", "norm", "out_proj", "act")

    def projections(self, module: Any, call: LayerCall) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's own reordering of its interleaved projections."""
        query, key, value, _, write_logit, step_logit = self._ordered(module, call)
        joined = torch.cat([x.flatten(2) for x in (query, key, value)], dim=-1)
        return joined, write_logit, step_logit

    def gate(self, module: Any, call: LayerCall) -> Tensor:
        """The layer's own reordering."""
        return self._ordered(module, call)[3]

    def _ordered(self, module: Any, call: LayerCall) -> Sequence[Tensor]:
        return module.fix_query_key_value_ordering(
            call.seen["in_proj_qkvz"].output, call.seen["in_proj_ba"].output
        )


class Qwen35Adapter(GatedDeltaNetAdapter):
    """Qwen3.5 and later: one projection for queries, keys and values, one for each gate."""

    watched = ("in_proj_qkv", "in_proj_b", "in_proj_a", "in_proj_z")
    entry = "in_proj_qkv"
    parts = (*watched, "conv1d", "A_log", "dt_bias", "norm", "out_proj", "act")

    def projections(self, module: Any, call: LayerCall) -> tuple[Tensor, Tensor, Tensor]:
        """The three projections as they are."""
        joined, write_logit, step_logit = (call.seen[name].output for name in self.watched[:3])
        return joined, write_logit, step_logit

    def gate(self, module: Any, call: LayerCall) -> Tensor:
        """A projection of its own."""
        return call.seen["in_proj_z"].output


class OlmoHybridAdapter(GatedDeltaNetAdapter):
    """OLMo hybrid: five projections, and beta doubled where negative eigenvalues are allowed."""

    watched = ("q_proj", "k_proj", "v_proj", "b_proj", "a_proj", "g_proj")
    entry = "q_proj"
    projection = "o_proj"
    gated_norm = "o_norm"
    parts = (*watched, "conv1d", "A_log", "dt_bias", "o_norm", "o_proj", "act")

    def projections(self, module: Any, call: LayerCall) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values joined."""
        query, key, value, write_logit, step_logit = (
            call.seen[name].output for name in self.watched[:5]
        )
        return torch.cat([query, key, value], dim=-1), write_logit, step_logit

    def gate(self, module: Any, call: LayerCall) -> Tensor:
        """A projection of its own."""
        return call.seen["g_proj"].output


class KimiDeltaAdapter(Adapter):
    """Kimi Linear's delta attention (and GLM's, Bailing's): one rate a head and key dimension.

    Source: Kimi Linear (arXiv 2510.26692). Where the forget gate has a lower bound, the log decay
    is `bound * sigmoid(...)`: then the bound stands as A and the sigmoid as delta.
    """

    kind = "kimi-delta-attention"
    watched = ("q_proj", "k_proj", "v_proj", "b_proj", "forget_gate")
    entry = "q_proj"
    projection = "o_proj"
    decays_because = "A is minus an exponential, or a bound below 0"
    parts = (*watched, "conv1d", "g_a_proj", "g_b_proj", "g_proj", "o_norm", "o_proj", "act")

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential, or a bound below 0."""
        return True

    def matches(self, module: Any) -> bool:
        """Told by a `forget_gate` with `A_log` and `dt_bias`."""
        return has_parts(module, *self.watched, "conv1d") and has_parts(
            module.forget_gate, "A_log", "dt_bias"
        )

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """One rate a head and key dimension, heads outermost."""
        gate = module.forget_gate
        rates, heads = gate.dt_bias.numel(), gate.A_log.numel()
        bound = _lower_bound(gate)
        if bound is not None:
            return torch.full((rates, 1), bound, device=gate.A_log.device)
        return negative_exp(gate.A_log).reshape(-1, 1).repeat_interleave(rates // heads, dim=0)

    def edit_rates(
        self, module: Any, A: Float[Tensor, "rates state"]
    ) -> Mapping[str, Tensor] | None:
        """A head has one `A_log` for all its key dimensions: that of the fastest of them."""
        if _lower_bound(module.forget_gate) is not None:
            return None
        A_log = module.forget_gate.A_log
        fastest = A.reshape(A_log.numel(), -1).amin(-1)
        return {"forget_gate.A_log": torch.log(-fastest).reshape(A_log.shape)}

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of the delta rule; the forget gate gives the log decay itself."""
        joined = torch.cat([call.seen[name].output for name in self.watched[:3]], dim=-1)
        beta = call.seen["b_proj"].output.sigmoid()
        query, key, value = (
            x.unflatten(-1, (beta.shape[-1], -1)) for x in convolved(module, joined).chunk(3, -1)
        )
        A = self.state_matrix(module)
        log_decay = wide(call.seen["forget_gate"].output).flatten(2)
        return DeltaRuleRecurrence(
            unit(query) / query.shape[-1] ** 0.5, unit(key), value, beta, log_decay / A[:, 0], A
        )

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The layer's own norm of each head's output and gate, which is projected once or twice."""
        hidden_states = call.masked(call.hidden_states)
        if has_parts(module, "g_proj"):
            gate = module.g_proj(hidden_states)
        else:
            gate = module.g_b_proj(module.g_a_proj(hidden_states))
        return _normed(module.o_norm, outputs[0], gate)


def _lower_bound(gate: Any) -> float | None:
    if getattr(gate, "safe_gate", True) is False:
        return None
    bound = getattr(gate, "safe_gate_lower_bound", getattr(gate, "lower_bound", None))
    return None if bound is None else float(bound)


def _normed(norm: Any, y: Tensor, gate: Tensor) -> Tensor:
    width = norm.weight.shape[-1]
    heads = norm(y.reshape(-1, width), gate.reshape(-1, width))
    return heads.reshape(y.shape)


def _split_heads(module: Any, q_k_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    key_dim, key_heads, heads = module.head_k_dim, module.num_k_heads, module.num_v_heads
    widths = [key_heads * key_dim] * 2 + [q_k_v.shape[-1] - 2 * key_heads * key_dim]
    query, key, value = convolved(module, q_k_v).split(widths, dim=-1)
    query, key = (
        unit(x.unflatten(-1, (-1, key_dim))).repeat_interleave(heads // key_heads, dim=2)
        for x in (query, key)
    )
    return query / key_dim**0.5, key, value.unflatten(-1, (heads, -1))

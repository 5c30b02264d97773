"""Layers that divide what they remember by a sum of its weights: RWKV-4 and xLSTM's mLSTM."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.audit._normalised import MatrixMemory, WeightedAverage
from keelback.audit._recurrence import Recurrence
from keelback.audit.adapters.base import Adapter, LayerCall, has_parts, negative_exp, wide


class RwkvAdapter(Adapter):
    """RWKV-4: each channel averages values with weights that decay at a constant rate.

    Every step size is 1, and A is `-exp(time_decay)`. Source: Peng et al. 2023 (arXiv 2305.13048).
    """

    kind = "rwkv"
    watched = ("key", "value", "receptance")
    projection = "output"
    parts = (
        *("key", "value", "receptance", "output", "time_decay", "time_first"),
        *("time_mix_key", "time_mix_value", "time_mix_receptance"),
    )

    def matches(self, module: Any) -> bool:
        """Told by its projections and vectors `time_decay` and `time_first`."""
        return has_parts(module, *self.parts) and module.time_decay.ndim == 1

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential."""
        return True

    def goes_on(self, module: Any, given: Mapping[str, Any]) -> bool:
        """Told by the weights of this layer in the states of all that it is given."""
        state = given.get("state")
        return state is not None and bool(state[3][:, :, module.layer_id].any())

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(time_decay)`, one rate per channel."""
        return negative_exp(module.time_decay)[:, None]

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """`time_decay = log(-A)`."""
        return {"time_decay": torch.log(-A[:, 0])}

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Keys and values as they are."""
        key, value = (call.seen[name].output for name in ("key", "value"))
        return WeightedAverage(key, value, module.time_first, self.state_matrix(module))

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The average, times the receptance."""
        return torch.sigmoid(wide(call.seen["receptance"].output)) * outputs[0]


class _MatrixMemoryAdapter(Adapter):
    """xLSTM's mLSTM: one forget gate and one input gate per head, both read off the token.

    The decay is a sigmoid of the layer's input, so that no weight holds a rate by itself: there is
    nothing to edit. Source: Beck et al. 2024 (arXiv 2405.04517).
    """

    kind = "mlstm"
    decays_because = "the forget gate is a sigmoid"

    def matches(self, module: Any) -> bool:
        """Told by its projections and `multihead_norm`."""
        return has_parts(module, *self.watched, "multihead_norm", "out_proj", "config")

    def always_decays(self, module: Any) -> bool:
        """The forget gate is below 1."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """-1 in each head: the forget gate alone says how fast it forgets."""
        return -torch.ones(module.config.num_heads, 1, device=module.out_proj.weight.device)

    def projections(self, module: Any, call: LayerCall) -> Sequence[Tensor]:
        """Queries, keys, values, the logits of output gate, input gate and forget gate."""
        raise NotImplementedError

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Queries, keys, values and gates of each head."""
        config = module.config
        *joined, _, input_logit, forget_logit = self.projections(module, call)
        query, key, value = (x.unflatten(-1, (config.num_heads, -1)) for x in joined)
        input_logit, forget_logit = (
            _capped(wide(x), config.gate_soft_cap) for x in (input_logit, forget_logit)
        )
        return MatrixMemory(
            query / query.shape[-1] ** 0.5,
            key,
            value,
            input_logit,
            F.softplus(-forget_logit),
            config.eps,
        )

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The layer's norm of each head, and its gate."""
        heads = outputs[0].unflatten(-1, (module.config.num_heads, -1))
        normed: Tensor = module.multihead_norm(heads).flatten(2)
        return torch.sigmoid(wide(self.projections(module, call)[3])) * normed


class MatrixMemoryAdapter(_MatrixMemoryAdapter):
    """The mLSTM with a projection for each of queries, keys, values and gates."""

    watched = ("q", "k", "v", "ogate_preact", "igate_preact", "fgate_preact")
    entry = "q"
    parts = (*watched, "multihead_norm", "out_proj")

    def projections(self, module: Any, call: LayerCall) -> Sequence[Tensor]:
        """One after another."""
        return [call.seen[name].output for name in self.watched]


class FusedMatrixMemoryAdapter(_MatrixMemoryAdapter):
    """The mLSTM with two projections: queries, keys, values, output gate; and the other gates."""

    watched = ("qkv_opreact", "ifgate_preact")
    entry = "qkv_opreact"
    parts = (*watched, "multihead_norm", "out_proj")

    def projections(self, module: Any, call: LayerCall) -> Sequence[Tensor]:
        """Taken apart as the layer does."""
        keys, values = module.qk_dim, module.v_dim
        joined, gates = (call.seen[name].output for name in self.watched)
        return [*joined.split([keys, keys, values, values], dim=-1), *gates.chunk(2, dim=-1)]


def _capped(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else cap * torch.tanh(x / cap)

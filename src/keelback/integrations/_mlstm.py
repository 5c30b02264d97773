"""The mLSTM of xLSTM's layers in transformers, by keelback's chunks."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.integrations._widths import in_one_width
from keelback.recurrence import MlstmStates, mlstm

#: Memory, normaliser and exponent as transformers keeps them; the last has one more axis.
States = tuple[Tensor, Tensor, Tensor]


def mlstm_backend(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """What to put in the place of `forward` of transformers' `xLSTMBackend`.

    A single step stays theirs, and so does what they refuse to compute.
    """

    def ours(
        layer: Any,
        query: Float[Tensor, "batch heads length key"],
        key: Float[Tensor, "batch heads length key"],
        value: Float[Tensor, "batch heads length value"],
        igate: Float[Tensor, "batch heads length"],
        fgate: Float[Tensor, "batch heads length"],
        c_initial: Float[Tensor, "batch heads key value"] | None = None,
        n_initial: Float[Tensor, "batch heads key"] | None = None,
        m_initial: Float[Tensor, "batch heads 1"] | None = None,
        return_last_states: bool | None = None,
        mode: str | None = None,
    ) -> Tensor | tuple[Tensor, States]:
        config, before = layer.config, (c_initial, n_initial, m_initial)
        wants_states = (
            config.return_last_states if return_last_states is None else bool(return_last_states)
        )
        training = "train" in (config.mode if mode is None else mode)
        padded_with_states = training and wants_states and config.mode == "train_with_padding"
        partly_given = len({x is None for x in before}) > 1
        if query.shape[2] <= 1 or padded_with_states or partly_given:
            return theirs(layer, query, key, value, igate, fgate, *before, return_last_states, mode)
        gates = igate, F.logsigmoid(fgate.to(torch.promote_types(fgate.dtype, torch.float32)))
        by_time = [x.transpose(1, 2) for x in (query, key, value, *gates)]
        q, k, v, log_input, log_forget, memory, normaliser, exponent = in_one_width(
            *by_time, *before
        )
        start = None
        if memory is not None:
            start = MlstmStates(memory, normaliser, exponent.squeeze(-1))
        y, after = mlstm(q, k, v, log_input, log_forget, start, epsilon=config.eps)
        h = y.transpose(1, 2).to(query.dtype)
        if training and not wants_states:
            return h
        return h, (after.memory, after.normaliser, after.exponent.unsqueeze(-1))

    return ours

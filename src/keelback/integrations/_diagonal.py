"""The recurrences of RecurrentGemma's and RWKV's layers, by keelback's kernels."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from keelback.integrations._widths import in_one_width
from keelback.recurrence import WkvStates, diagonal_recurrence, wkv


def rg_lru_scan(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """What to put in the place of `_rnn_scan` of an RG-LRU; a single step stays theirs."""

    def ours(
        layer: Any,
        hidden_states: Float[Tensor, "batch length channels"],
        recurrent_gate: Float[Tensor, "batch length channels"],
        reset: Bool[Tensor, "batch length 1"],
        recurrent_states: Float[Tensor, "batch channels"] | None,
        acc_dtype: torch.dtype = torch.float32,
    ) -> tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch channels"]]:
        if hidden_states.shape[1] == 1:
            return theirs(layer, hidden_states, recurrent_gate, reset, recurrent_states, acc_dtype)
        given = (recurrent_gate * ~reset, hidden_states, recurrent_states)
        a, x, first = in_one_width(*(None if one is None else one.to(acc_dtype) for one in given))
        first = None if first is None else first.to(x.device)
        states = diagonal_recurrence(a, x, first)
        return states.to(hidden_states.dtype), states[:, -1]

    return ours


def rwkv_attention(module: ModuleType) -> Callable[..., Any]:
    """What to put in the place of `rwkv_linear_attention` of transformers' module of RWKV.

    A single step stays theirs, and so does a sequence on a GPU where they have their own kernel.
    """
    theirs = module.rwkv_linear_attention

    def ours(
        time_decay: Float[Tensor, " channels"],
        time_first: Float[Tensor, " channels"],
        key: Float[Tensor, "batch length channels"],
        value: Float[Tensor, "batch length channels"],
        state: Sequence[Tensor] | None = None,
        return_state: bool = False,
    ) -> tuple[Float[Tensor, "batch length channels"], list[Tensor] | None]:
        by_theirs = key.is_cuda and module.rwkv_cuda_kernel is not None
        if key.shape[1] == 1 or by_theirs:
            return theirs(
                time_decay, time_first, key, value, state=state, return_state=return_state
            )
        k, v, w, u, *before = in_one_width(
            key, value, -torch.exp(time_decay), time_first, *(state or ())
        )
        y, after = wkv(k, v, w, u, WkvStates(*before) if before else None)
        has_states = return_state or state is not None
        return y.to(key.dtype), list(after) if has_states else None

    return ours

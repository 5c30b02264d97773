"""The delta rules of transformers' layers, by keelback's kernels."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from inspect import get_annotations
from typing import Any
from warnings import warn

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.checks import HALF
from keelback.delta import delta_rule, delta_rule_step
from keelback.delta.cuda.plan import WIDEST_KEY, WIDEST_VALUE
from keelback.errors import InputError
from keelback.integrations._packed import packing_now, reset_of
from keelback.integrations._stand_in import is_installed
from keelback.integrations._widths import in_one_width

#: In a module of transformers: the function for sequences, and that for steps.
BY_HEAD = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")
BY_CHANNEL = ("chunk_kimi_delta_attention", "recurrent_kimi_delta_attention")


#: Options of fla's functions that change what is computed, and that layers do not give.
_REFUSED = (
    *("scale", "gk", "gv", "head_first", "A_log", "dt_bias", "lower_bound", "use_gate_in_kernel"),
    *("use_beta_sigmoid_in_kernel", "allow_neg_eigval", "state_v_first", "transpose_state_layout"),
    *("cp_context", "return_intermediate_states"),
)
#: Those that are heeded, or that say how it is computed and not what.
_TAKEN = (
    *("chunk_size", "seq_idx", "cu_seqlens", "use_cache"),
    *("position_ids", "position_embeddings", "cache_position"),
)


def is_faster_than_fla(query: Tensor, key: Tensor, value: Tensor, g: Tensor) -> bool:
    """Whether keelback's kernels compute a delta rule on a GPU, and were measured to be faster
    than fla's: in half precision, with log decays per key channel in bfloat16 alone."""
    key_size, value_size = query.shape[-1], value.shape[-1]
    return (
        query.dtype == key.dtype == value.dtype
        and query.dtype in (HALF if g.ndim < value.ndim else (torch.bfloat16,))
        and key_size % 32 == 0
        and key_size <= WIDEST_KEY
        and value_size % 8 == 0
        and value_size <= WIDEST_VALUE
    )


def who_computes_on_gpu() -> str:
    """Whose kernels compute delta rules on a GPU, in transformers and after `provide_fla()`.

    Examples:
        >>> "keelback's" in who_computes_on_gpu()
        True
    """
    if not is_installed("fla"):
        return "keelback's, since fla is not installed"
    return "keelback's in bfloat16, and in float16 with a log decay per head; otherwise fla's"


def delta_rules(theirs: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """What to put in the place of a module's functions, by their names.

    On a GPU with flash-linear-attention, transformers' functions call its kernels. They stay where
    keelback's are not the faster ones, but for sequences whose packing they are not told.
    """
    by_fla = is_installed("fla")
    return {name: _in_place_of(function, by_fla) for name, function in theirs.items()}


def _in_place_of(theirs: Callable[..., Any], by_fla: bool) -> Callable[..., Any]:
    def ours(query: Tensor, key: Tensor, value: Tensor, g: Tensor, *more: Any, **named: Any) -> Any:
        untold = packing_now() is not None and named.get("cu_seqlens") is None
        if by_fla and query.is_cuda and not untold and not is_faster_than_fla(query, key, value, g):
            return theirs(query, key, value, g, *more, **named)
        return delta_attention(query, key, value, g, *more, **named)

    return ours


def _require_known(options: Mapping[str, Any]) -> None:
    """Refuse options that change what a delta rule computes; warn of those that nobody knows.

    A layer hands on whatever its model was called with.

    Raises:
        InputError: with the name of such an option.
    """
    given = [name for name, value in options.items() if value is not None and value is not False]
    refused = [name for name in given if name in _REFUSED]
    if refused:
        raise InputError(f"keelback's delta rule in transformers does not take {refused[0]}")
    for name in given:
        if name not in _known():
            warn(f"{name} has no effect on a delta rule", RuntimeWarning, stacklevel=4)


@cache
def _known() -> frozenset[str]:
    """Names that transformers itself hands through its layers, or that are heeded."""
    names = set(_TAKEN)
    for module, record in (
        ("transformers.modeling_flash_attention_utils", "FlashAttentionKwargs"),
        ("transformers.utils.generic", "TransformersKwargs"),
    ):
        names |= set(get_annotations(getattr(import_module(module), record, object)))
    return frozenset(names)


def delta_attention(
    query: Float[Tensor, "batch length groups key"],
    key: Float[Tensor, "batch length groups key"],
    value: Float[Tensor, "batch length heads value"],
    g: Float[Tensor, "batch length heads"] | Float[Tensor, "batch length heads key"],
    beta: Float[Tensor, "batch length heads"],
    *,
    initial_state: Float[Tensor, "batch heads key value"] | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **options: Any,
) -> tuple[
    Float[Tensor, "batch length heads value"], Float[Tensor, "batch heads key value"] | None
]:
    """Both functions of transformers, for sequences and for steps; `chunk_size` has no effect, and
    packed sequences are kept apart.

    Raises:
        InputError: An option would change what is computed.
    """
    _require_known(options)
    batch, length = value.shape[:2]
    reset = reset_of(options, batch, length)
    q, k, v, g, beta, states = in_one_width(query, key, value, g, beta, initial_state)
    if length == 1 and states is not None:
        now = [x.squeeze(1) for x in (q, k, v, g, beta)]
        y, last = delta_rule_step(states, *now, normalise=use_qk_l2norm_in_kernel)
        y = y.unsqueeze(1)
    else:
        y, last = delta_rule(
            q,
            k,
            v,
            g,
            beta,
            states,
            return_final_states=True,
            normalise=use_qk_l2norm_in_kernel,
            reset=reset,
        )
    return y.to(query.dtype), last if output_final_state else None

"""Whether a layer's call begins a sequence: nothing in a cache, nothing packed behind something."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

PACKED = ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")
"""Names under which models are told where the sequences in a packed batch begin."""


def goes_on_from_a_state(module: nn.Module, given: Mapping[str, Any]) -> bool:
    """Whether a call goes on from an earlier state, or has several sequences in one.

    Args:
        module: the layer.
        given: what it was called with, by name, its input first.
    """
    values = list(given.items())[1:]
    return any(
        _is_packing(name, value) or _holds_a_state(name, value, module) for name, value in values
    )


def goes_on_in_flas_cache(module: Any, given: Mapping[str, Any]) -> bool | None:
    """The same of a layer of fla, told by its own entry in the cache, which others may have filled.

    `None` where it is given no such cache.
    """
    cache = given.get("past_key_values")
    if cache is None or not hasattr(cache, "get_seq_length"):
        return None
    if int(cache.get_seq_length(module.layer_idx)) > 0:
        return True
    return goes_on_from_a_state(module, {**given, "past_key_values": None})


def _is_packing(name: str, value: Any) -> bool:
    if name not in PACKED or not isinstance(value, Tensor):
        return False
    if name == "seq_idx":
        return bool((value != value.flatten()[0]).any())
    return value.numel() > 2


def _holds_a_state(name: str, value: Any, module: nn.Module) -> bool:
    """Whether an argument, whatever its name, carries what the layer left at an earlier call."""
    if value is None:
        return False
    if isinstance(value, Tensor):
        return "state" in name and value.is_floating_point() and bool(value.any())
    if hasattr(value, "seqlen_offset"):  # mamba_ssm's InferenceParams
        return int(value.seqlen_offset) > 0
    index = getattr(module, "layer_idx", None)
    if hasattr(value, "get_linear_cache"):  # MiniMax's, beside the states of all caches
        return _has_content(value.get_linear_cache(index))
    if hasattr(value, "get_recurrent_state"):
        try:
            state = value.get_recurrent_state(index)
        except (ValueError, IndexError, TypeError, AttributeError):
            state = None
        return state is not None
    if hasattr(value, "has_previous_state"):
        own = value.has_previous_state
        try:
            return bool(own(index) if callable(own) else own)
        except TypeError:
            return bool(own())
    if hasattr(value, "get_seq_length"):
        return int(value.get_seq_length()) > 0
    if "cache" in name.lower() or "cache" in type(value).__name__.lower() or "state" in name:
        return _has_content(value)
    return False


def _has_content(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(value.any())
    if isinstance(value, Mapping):
        return any(_has_content(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return any(_has_content(inner) for inner in value)
    return False

"""Checkpoints whose weights are stored in fewer bits, with scales beside them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keelback.audit.checkpoints._files import StoredTensor
from keelback.errors import InputError

_SIDECARS = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
_OLD_NAMES = ("compression_config",)


def quantisation_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The `quantization_config` of a `config.json`, or that of its language model."""
    inner = config.get("text_config")
    for fields in (config, inner if isinstance(inner, Mapping) else {}):
        own = fields.get("quantization_config")
        if own:
            return own if isinstance(own, Mapping) else {}
    return None


def refuse_unknown_quantisation(config: Mapping[str, Any], folder: Path | None) -> None:
    """Refuse what would be taken for plain weights, its scales ignored.

    Raises:
        InputError: a `quant_method` that transformers does not know (it would go on without), or a
            scheme described in a file or field that it does not read.
    """
    own = quantisation_of(config)
    if own is not None:
        _refuse_unknown_method(own)
        return
    for name in _OLD_NAMES:
        if config.get(name):
            raise InputError(
                f"config.json describes quantised weights in {name}, which transformers does not "
                "read; save the model with a quantization_config or without quantisation"
            )
    for name in _SIDECARS if folder is not None else ():
        if folder is not None and (folder / name).is_file():
            raise InputError(
                f"{folder} has a {name}: its weights are quantised, and config.json has no "
                "quantization_config to read them by; save the model without quantisation"
            )


def _refuse_unknown_method(own: Mapping[str, Any]) -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if own.get("load_in_8bit") or own.get("load_in_4bit"):
        return
    method = own.get("quant_method")
    if method is None:
        raise InputError("the quantization_config of config.json names no quant_method")
    known = sorted(AUTO_QUANTIZATION_CONFIG_MAPPING)
    if method not in known:
        raise InputError(
            f"the quant_method {method!r} of config.json is not one that transformers knows; its "
            f"weights cannot be read. It knows {', '.join(known)}"
        )


def refuse_numbers_without_scale(tensors: Iterable[StoredTensor], floating: set[str]) -> None:
    """Refuse a checkpoint without `quantization_config` that stores weights in few bits.

    Args:
        tensors: those of the checkpoint.
        floating: names of those that the model takes for floating-point weights.

    Raises:
        InputError: a weight of 8 bits or fewer, or a weight of whole numbers; numbers of that kind
            stand for weights only together with a scale.
    """
    for tensor in tensors:
        if tensor.name in floating and not tensor.is_plain:
            raise InputError(
                f"{tensor.name} is stored as {tensor.stored_type} and config.json has no "
                "quantization_config that says with which scale to read it"
            )

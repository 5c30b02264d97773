"""What an audit asks of any model: what is inside its wrappers, is it whole, what does it know."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from keelback.audit._parameters import Parameters, whole
from keelback.errors import InputError

ASSUMED_TRAIN_LENGTH = 2048
"""Training length of a model whose configuration is silent: that of the published Mambas."""

_INSIDE = ("_orig_mod", "_forward_module")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside what `torch.compile`, DDP, PEFT or DeepSpeed wrapped around it.

    FSDP2 wraps nothing.

    PEFT's adapters stay in place: they are in the layers, not around the model.

    Examples:
        >>> model = torch.nn.Linear(4, 4)
        >>> unwrapped(torch.nn.DataParallel(model)) is model
        True
    """
    while True:
        inner = _inside(model)
        if inner is None or inner is model:
            return model
        model = inner


def _inside(model: Any) -> nn.Module | None:
    for name in _INSIDE:
        inner = model.__dict__.get("_modules", {}).get(name)
        if isinstance(inner, nn.Module):
            return inner
    kinds = {cls.__name__ for cls in type(model).__mro__}
    if kinds & {"DistributedDataParallel", "DataParallel", "DeepSpeedEngine"}:
        wrapped: nn.Module = model.module
        return wrapped
    if "PeftModel" in kinds or "PeftMixedModel" in kinds:
        base: nn.Module = model.get_base_model()
        return base
    return None


@contextmanager
def as_written(model: nn.Module) -> Iterator[None]:
    """Within the block, the model runs line by line, whatever of it was compiled.

    Compiled graphs know nothing of hooks that were added, or weights that were rounded, after
    they were made.
    """
    compiled = [(m, m._compiled_call_impl) for m in model.modules() if m._compiled_call_impl]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, own in compiled:
            module._compiled_call_impl = own


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block, the model is in evaluation mode; afterwards all is as it was.

    RWKV divides some of its weights when it first runs in evaluation mode, and multiplies them
    when it next trains: they are multiplied at once, so that nobody saves them divided.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for module in model.modules():
            rescale: Any = getattr(module, "_rescale_layers", None)
            if callable(rescale) and module.training:
                rescale()


def check_weights(model: nn.Module) -> None:
    """Refuse a model with a weight that is infinite or not a number.

    A buffer that is stored with the weights may hold infinity, as masks do, but not NaN.

    Raises:
        InputError: the message names the first such tensor and counts its bad entries.
    """
    for name, buffer in _stored_buffers(model):
        if bool(torch.isnan(buffer.float()).any()):
            bad = int(torch.isnan(buffer.float()).sum())
            raise InputError(
                f"{bad} of {buffer.numel()} entries of {name} are NaN; the checkpoint is damaged "
                "or its training diverged"
            )
    parameters = Parameters(model)
    for name, own in model.named_parameters():
        if not own.is_floating_point():
            continue
        parameter = parameters.value(name)
        if parameter.is_meta:
            raise InputError(f"{name} has no values: it is on the meta device")
        if parameter.element_size() == 1:
            parameter = parameter.float()
        if bool(torch.isfinite(parameter.sum())):
            continue
        finite = torch.isfinite(parameter)
        if not bool(finite.all()):
            bad = int((~finite).sum())
            raise InputError(
                f"{bad} of {parameter.numel()} entries of {name} are NaN or infinite; "
                "the checkpoint is damaged or its training diverged"
            )


def _stored_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers of floats that a checkpoint holds, by name, where they are in memory."""
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            stored = name not in module._non_persistent_buffers_set
            if stored and buffer.is_floating_point() and not buffer.is_meta:
                yield f"{path}.{name}" if path else name, whole(buffer)


def train_length_of(model: nn.Module) -> int | None:
    """The longest context that the model's configuration speaks of, if it does.

    Of a model for several kinds of input, that of its language model.

    Examples:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1)
        >>> train_length_of(MambaForCausalLM(tiny)) is None  # its configuration says nothing
        True
    """
    config: Any = getattr(model, "config", None)
    for own in (config, _text_config(config)):
        length = getattr(own, "max_position_embeddings", None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else None


def resolved_train_length(model: nn.Module, given: int | None) -> tuple[int, str]:
    """The training length to go by, and whether it is given, from the configuration, or assumed.

    Raises:
        InputError: one was given that is below 1.
    """
    if given is not None:
        if given < 1:
            raise InputError(f"the training length is {given}; it must be at least 1")
        return given, "given"
    configured = train_length_of(model)
    return (
        (configured, "configuration")
        if configured is not None
        else (ASSUMED_TRAIN_LENGTH, "assumed")
    )


def vocab_size_of(model: nn.Module) -> int | None:
    """How many token ids the model has embeddings for, if it can be told."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    weight = getattr(embeddings, "weight", None)
    if isinstance(weight, Tensor):
        return weight.shape[0]
    config = getattr(model, "config", None)
    for own in (config, _text_config(config)):
        size = getattr(own, "vocab_size", None)
        if isinstance(size, int):
            return size
    return None

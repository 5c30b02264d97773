"""Who else sees what a call does: the compiler, transforms of `torch.func`, autograd, modes."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling, is_dynamo_compiling, is_exporting
from torch.nn import Parameter

_PLAIN_TYPES = (Tensor, Parameter)
_DEVICES = ("cpu", "cuda")


@cache
def _plain_keys(device: str) -> tuple[Any, ...]:
    """The dispatch keys of plain tensors on a kind of device: outside inference mode, and in it."""
    with torch.inference_mode(False):
        usual = torch._C._dispatch_keys(torch.empty(0, device=device))
    with torch.inference_mode():
        return usual, torch._C._dispatch_keys(torch.empty(0, device=device))


def is_transformed() -> bool:
    """Whether the compiler or a transform wants to see each operation."""
    return is_compiling() or torch._C._are_functorch_transforms_active()


def is_one_node() -> bool:
    """Whether `torch.compile` follows this code, and a call may be one node of its graph.

    Not in a program that is exported, which should show its operations, nor in PyTorch 2.8, whose
    compiler takes every graph for one that is exported.
    """
    return (
        is_dynamo_compiling()
        and not is_exporting()
        and not torch._C._are_functorch_transforms_active()
    )


def inside_transform() -> bool:
    """Whether a transform of `torch.func` is active, outside the compiler."""
    return not is_compiling() and torch._C._are_functorch_transforms_active()


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A block in which operations compute in the dtypes of their operands."""
    if device.type == "meta":  # It has no autocast, and raises where one is asked for.
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd wants to see what is made of these."""
    if torch.is_grad_enabled():
        for x in tensors:
            if x is not None and x.requires_grad:
                return True
    return False


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether forward-mode differentiation follows one of these."""
    if not _is_forward_mode():
        return False
    return any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def _is_forward_mode() -> bool:
    """Whether tensors may have tangents, which nothing about a plain one tells."""
    return forward_ad._current_level >= 0


def is_unwatched() -> bool:
    """Whether neither the compiler nor a transform, a mode or a trace sees all operations."""
    return not (
        is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._get_tracing_state() is not None
        or _is_forward_mode()
    )


def runs_eagerly(*tensors: Tensor | None) -> bool:
    """Whether all tensors are plain ones on one kind of device, and nothing intercepts operators.

    Nobody but autograd could then tell whether an operator's kernels are called by way of
    PyTorch's dispatcher or without it.
    """
    if not is_unwatched():
        return False
    keys, plain = torch._C._dispatch_keys, None
    for x in tensors:
        if x is None:
            continue
        if type(x) not in _PLAIN_TYPES:
            return False
        if plain is None:
            device = x.device.type
            if device not in _DEVICES:
                return False
            plain = _plain_keys(device)
        if keys(x) not in plain:
            return False
    return True

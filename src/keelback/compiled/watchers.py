"""Who else sees what a call does: the compiler, transforms of `torch.func`, autograd, modes."""

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import Parameter

_PLAIN = torch._C._dispatch_keys(torch.empty(0, device="cpu"))


def is_transformed() -> bool:
    """Whether the compiler or a transform wants to see each operation."""
    return is_compiling() or torch._C._are_functorch_transforms_active()


def inside_transform() -> bool:
    """Whether a transform of `torch.func` is active, outside the compiler."""
    return not is_compiling() and torch._C._are_functorch_transforms_active()


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd wants to see what is made of these."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def runs_eagerly(*tensors: Tensor | None) -> bool:
    """Whether all tensors are plain ones on the CPU, and nothing intercepts operators."""
    if (
        is_transformed()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._get_tracing_state() is not None
    ):
        return False
    keys = torch._C._dispatch_keys
    for x in tensors:
        if x is not None and (type(x) not in (Tensor, Parameter) or keys(x) != _PLAIN):
            return False
    return True

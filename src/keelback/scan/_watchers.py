"""Who else sees what a call does: the compiler, transforms of `torch.func`, autograd."""

import torch
from torch import Tensor
from torch.compiler import is_compiling


def is_transformed() -> bool:
    """Whether the compiler or a transform wants to see each operation."""
    return is_compiling() or torch._C._are_functorch_transforms_active()


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd wants to see what is made of these."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)

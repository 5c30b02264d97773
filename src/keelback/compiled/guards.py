"""Whether a call's tensors are like those of an earlier one, told by one call of PyTorch's code."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

#: PyTorch up to here has guards that were tried: they are its compiler's own, not a public name.
NEWEST = (2, 14)


def _guards_of_pytorch() -> Any:
    """PyTorch's guards over several tensors; None where they are not known to be as they were."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version > NEWEST:
        return None
    from torch._C._dynamo import guards

    return guards.TensorGuards


_GUARDS: Any = _guards_of_pytorch()


def guard_over(operands: Sequence[Tensor | None]) -> Callable[..., bool]:
    """Tells of other tensors whether they are like these, where none is absent; keeps none of them.

    Like are types, shapes, strides, dtypes, devices, whether gradients are required, and dispatch
    keys, with those that the thread adds: transforms and inference mode are told too. With a newer
    PyTorch than those tried nothing is like anything.
    """
    if _GUARDS is None:
        return none_fit
    present = [x for x in operands if x is not None]
    guards = _GUARDS(
        *present,
        dynamic_dims_sizes=[list(x.shape) for x in present],
        dynamic_dims_strides=[list(x.stride()) for x in present],
    )
    check: Callable[..., bool] = guards.check
    return check


def none_fit(*tensors: Tensor) -> bool:
    """For calls that nobody remembers."""
    return False

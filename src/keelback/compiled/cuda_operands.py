"""Tensors as CUDA kernels take them: strides, packs of adjacent elements, alignment."""

from collections.abc import Iterable

from torch import Tensor

from keelback.compiled.layouts import Layout

PACK = 4
"""Adjacent elements that move together."""


def in_packs(x: Layout) -> bool:
    """Whether packs of adjacent elements are aligned in every row of a tensor, if in its first."""
    return all(stride % PACK == 0 for stride in x.stride[:-1])


def aligned(tensors: Iterable[Tensor | None]) -> bool:
    """Whether all tensors begin where a pack may."""
    return all(x is None or x.data_ptr() % (PACK * x.element_size()) == 0 for x in tensors)


def address(tensor: Tensor | None) -> int:
    """Where a tensor's data lies; 0 stands for an absent one."""
    return 0 if tensor is None else tensor.data_ptr()


def outer_strides(x: Layout | None, axes: int) -> tuple[int, ...]:
    """Those of all axes but the last; 0 along that of replicas where a tensor lacks it."""
    found = () if x is None else x.stride[:-1]
    return (0,) * (axes - len(found)) + found

"""Tensors as CUDA kernels take them: addresses, strides, packs of adjacent elements."""

import struct
from collections.abc import Iterable
from typing import TypeAlias

from torch import Tensor

Fields: TypeAlias = int | Iterable[int]

PACK = 4
"""Adjacent elements that move together."""


def in_packs(x: Tensor) -> bool:
    """Whether packs of adjacent elements are aligned in every row of a tensor."""
    return x.data_ptr() % (PACK * x.element_size()) == 0 and all(
        stride % PACK == 0 for stride in x.stride()[:-1]
    )


def adjacent(x: Tensor) -> Tensor:
    """The tensor with adjacent entries along its last axis."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def address(tensor: Tensor | None) -> int:
    """Where a tensor's data lies; 0 stands for an absent one."""
    return 0 if tensor is None else tensor.data_ptr()


def sequences(tensor: Tensor | None) -> tuple[int, ...]:
    """`Sequences` or `Resets` of place.cuh: address and strides of (replica, row, time, ...)."""
    return (0, 0, 0, 0) if tensor is None else (tensor.data_ptr(), *tensor.stride()[:3])


def packed_arguments(sizes: tuple[int, ...], **fields: Fields) -> bytes:
    """A kernel's argument: `Sizes`, then the fields in the order of the structure, 64 bits each."""
    values: list[int] = []
    for field in fields.values():
        if isinstance(field, int):
            values.append(field)
        else:
            values.extend(field)
    return struct.pack(f"={len(sizes)}i{len(sizes) % 2 * 4}x{len(values)}q", *sizes, *values)

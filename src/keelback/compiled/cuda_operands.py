"""Tensors as CUDA kernels take them: strides, packs of adjacent elements, alignment."""

import struct
from collections.abc import Iterable

import torch
from torch import Tensor

from keelback.compiled.layouts import Layout

PACK = 4
"""Adjacent elements that move together."""

PIECE_BYTES = 16
"""The most that a thread moves at once."""

_FLOAT = 4  # bytes


def in_packs(x: Layout) -> bool:
    """Whether packs of adjacent elements are aligned in every row of a tensor, if in its first."""
    return all(stride % PACK == 0 for stride in x.stride[:-1])


def address(tensor: Tensor | None) -> int:
    """Where a tensor's data lies; 0 stands for an absent one."""
    return 0 if tensor is None else tensor.data_ptr()


def addresses(tensors: Iterable[Tensor | None]) -> list[int]:
    """Where the data of tensors lie, in less time than `address` takes for each."""
    return [0 if x is None else x.data_ptr() for x in tensors]


def all_strides(x: Layout | None, axes: int) -> tuple[int, ...]:
    """Those of so many axes; 0 along that of replicas where a tensor lacks it, and if absent."""
    found = () if x is None else x.stride
    return (0,) * (axes - len(found)) + found


def outer_strides(x: Layout | None, axes: int) -> tuple[int, ...]:
    """`all_strides` without the last: so many axes."""
    return all_strides(x, axes + 1)[:-1]


def layout_of(x: Tensor) -> Layout:
    """What is known of a tensor before its numbers."""
    return Layout(x.shape, x.stride(), x.dtype, x.device)


def in_pieces(x: Layout) -> bool:
    """Whether the numbers along the last axis are adjacent, and each row may start at 16 bytes."""
    if not x.adjacent:
        return False
    return all(
        stride * x.dtype.itemsize % PIECE_BYTES == 0 and (stride or size <= 1)
        for size, stride in zip(x.shape[:-1], x.stride[:-1], strict=True)
    )


def at_pieces(x: Tensor) -> Tensor:
    """The tensor, or a copy with the same strides that starts at 16 bytes."""
    if x.data_ptr() % PIECE_BYTES == 0:
        return x
    copy = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
    return copy.copy_(x)


def piecewise(x: Tensor) -> Tensor:
    """The tensor, or a copy whose rows start at 16 bytes."""
    if not in_pieces(layout_of(x)):
        return x.clone(memory_format=torch.contiguous_format)
    return at_pieces(x)


def strides_of(x: Layout | None) -> tuple[int, ...]:
    """Of (row, time, head or group)."""
    return (0, 0, 0) if x is None else tuple(x.stride[:3])


def bits_of_floats(first: float, second: float = 0.0) -> int:
    """Two floats side by side, as a kernel's argument."""
    (bits,) = struct.unpack("=q", struct.pack("=ff", first, second))
    return int(bits)


class Room:
    """Scratch memory of a pass, in one piece: where in it each part begins."""

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, numbers: int, width: int = _FLOAT) -> int:
        """The offset of so many numbers."""
        begins = -(-self.bytes // 256) * 256
        self.bytes = begins + numbers * width
        return begins

"""What is known of a tensor before its numbers are: all that a call is planned by."""

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor


class Layout(NamedTuple):
    """A tensor without its place in memory: what plans are made of and kept under."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def adjacent(self) -> bool:
        """Whether entries along the last axis are neighbours in memory."""
        return self.stride[-1] == 1 or self.shape[-1] == 1

    def in_packs(self, count: int) -> bool:
        """Whether neighbours along the last axis may move `count` at once, if the first may."""
        return self.stride[-1] == 1 and all(step % count == 0 for step in self.stride[:-1])

    @property
    def repeats(self) -> bool:
        """Whether several elements are one in memory, so that none may be written."""
        return any(
            size > 1 and step == 0 for size, step in zip(self.shape, self.stride, strict=True)
        )

    @property
    def contiguous(self) -> bool:
        """Whether the tensor lies row by row, without gaps."""
        return all(
            size <= 1 or step == expected
            for size, step, expected in zip(
                self.shape, self.stride, row_major(self.shape), strict=True
            )
        )

    def in_row_major_order(self) -> "Layout":
        """The layout of a contiguous copy."""
        return self._replace(stride=row_major(self.shape))


Signature: TypeAlias = tuple[tuple[Any, ...] | None, ...]
"""The layouts of a call's operands as plain tuples, which are quick to make and to look up."""


def signature_of(operands: Iterable[Tensor | None]) -> Signature:
    """Under what the plan of a call with these operands is kept."""
    return tuple(
        [None if x is None else (x.shape, x.stride(), x.dtype, x.device) for x in operands]
    )


def layouts_of(signature: Signature) -> list[Layout | None]:
    """A signature as layouts, for whoever plans the call."""
    return [None if x is None else Layout(*x) for x in signature]


def row_major(shape: Iterable[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor of this shape."""
    strides, step = [], 1
    for size in reversed(tuple(shape)):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


class Blank:
    """Makes uninitialised contiguous tensors of one shape, in half the time of naming it anew.

    It holds no memory of the device: what is kept for later calls may be made while a CUDA graph
    is captured, whose memory is the graph's.
    """

    def __init__(self, shape: Iterable[int], dtype: torch.dtype, device: torch.device) -> None:
        self.shape = tuple(shape)
        number = torch.empty((), dtype=dtype, device=device)
        self._like = number.expand(self.shape)
        number.untyped_storage().resize_(0)

    def __call__(self) -> Tensor:
        """A new tensor."""
        return torch.empty_like(self._like, memory_format=torch.contiguous_format)

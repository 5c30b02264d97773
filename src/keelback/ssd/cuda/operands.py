"""The inputs of a scan by heads as the kernels take them."""

import struct
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.compiled.cuda_operands import address
from keelback.ssd.reference import DtLimit

PIECE = 8
"""Numbers that move together: heads and states come in whole pieces, which start at 16 bytes."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a scan by heads."""

    batch: int
    length: int
    heads: int
    head_dim: int
    groups: int
    states: int

    @property
    def heads_per_group(self) -> int:
        """Heads that share B and C."""
        return self.heads // self.groups


@dataclass(frozen=True, eq=False)
class Operands:
    """The inputs: x, z (row, time, head, number), dt (row, time, head), B, C (row, time, group, state)."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    initial_states: Tensor | None
    reset: Tensor | None
    dt_softplus: bool
    dt_limit: DtLimit

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.x.device

    @cached_property
    def shape(self) -> Shape:
        """The sizes of the scan."""
        batch, length, heads, head_dim = self.x.shape
        groups, states = self.B.shape[2:]
        return Shape(batch, length, heads, head_dim, groups, states)

    @property
    def empty(self) -> bool:
        """Whether there is no step to compute."""
        shape = self.shape
        return not (shape.batch and shape.length and shape.heads and shape.head_dim)

    @property
    def skip_per_number(self) -> bool:
        """Whether D is one for each number of a head."""
        return self.D is not None and self.D.ndim == 2

    @property
    def padded(self) -> bool:
        """Whether heads or states lack numbers to whole pieces."""
        return bool(self.shape.head_dim % PIECE or self.shape.states % PIECE)


def in_pieces(x: Tensor) -> Tensor:
    """The tensor with adjacent numbers along its last axis, each row of them starting at 16 bytes."""
    size = x.element_size()
    starts = [x.data_ptr(), *(stride * size for stride in x.stride()[:-1])]
    repeated = any(n > 1 and stride == 0 for n, stride in zip(x.shape, x.stride(), strict=True))
    if x.stride(-1) == 1 and not repeated and all(start % (2 * PIECE) == 0 for start in starts):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def padded_to_pieces(given: Operands) -> Operands:
    """The operands with zeros where heads and states lack numbers to whole pieces."""
    numbers, states = -given.shape.head_dim % PIECE, -given.shape.states % PIECE

    def pad(x: Tensor | None, *sizes: int) -> Any:
        return None if x is None else F.pad(x, sizes)

    return replace(
        given,
        x=pad(given.x, 0, numbers),
        B=pad(given.B, 0, states),
        C=pad(given.C, 0, states),
        D=pad(given.D, 0, numbers) if given.skip_per_number else given.D,
        z=pad(given.z, 0, numbers),
        initial_states=pad(given.initial_states, 0, states, 0, numbers),
    )


def aligned(given: Operands) -> Operands:
    """The operands as the kernels read them, copied only where their strides do not allow it."""

    def whole(x: Tensor | None) -> Any:
        return None if x is None else x.contiguous()

    return replace(
        given,
        x=in_pieces(given.x),
        A=given.A.contiguous(),
        B=in_pieces(given.B),
        C=in_pieces(given.C),
        D=whole(given.D),
        z=None if given.z is None else in_pieces(given.z),
        dt_bias=whole(given.dt_bias),
        initial_states=whole(given.initial_states),
    )


def sequences(x: Tensor | None) -> tuple[int, ...]:
    """`Sequences` of places.cuh: address and strides of (row, time, head or group)."""
    return (0, 0, 0, 0) if x is None else (x.data_ptr(), *x.stride()[:3])


def strided(x: Tensor | None, axes: int) -> tuple[int, ...]:
    """Address and strides of the first axes of a tensor."""
    return (0,) * (axes + 1) if x is None else (x.data_ptr(), *x.stride()[:axes])


def skip(D: Tensor | None) -> tuple[int, int]:
    """Address of D, and its stride from head to head."""
    return (0, 0) if D is None else (address(D), D.stride(0))


def limits(dt_limit: DtLimit) -> int:
    """`Limits` of places.cuh."""
    (bits,) = struct.unpack("=q", struct.pack("=ff", *dt_limit))
    return int(bits)

"""The inputs of a scan as the kernels take them."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from keelback.scan._cuda.plan import Shape, Traits

Fields: TypeAlias = int | Iterable[int]
PACK = 4


@dataclass(frozen=True, eq=False)
class Operands:
    """The inputs: u, delta, z (replica, row, time, channel); B, C (..., time, group, state)."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor | None
    reset: Tensor | None
    delta_softplus: bool

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.u.device

    @cached_property
    def shape(self) -> Shape:
        """The sizes of the scan."""
        replicas, rows, length, channels = self.u.shape
        return Shape(replicas, rows, length, channels, self.A.shape[-1], self.B.shape[-2])

    @property
    def shared_delta(self) -> bool:
        """Whether all channels share one step size."""
        return self.delta.shape[-1] == 1 and self.u.shape[-1] > 1

    def traits(self, *others: Tensor) -> Traits:
        """What the kernels specialise for; `others` are further tensors with the axes of u."""
        shape, u = self.shape, self.u
        sequences = [u, *others] if self.shared_delta else [u, self.delta, *others]
        if self.z is not None:
            sequences.append(self.z)
        packed = shape.channels_per_group % PACK == 0 and all(map(in_packs, sequences))
        state_packed = shape.states % PACK == 0 and in_packs(self.B) and in_packs(self.C)
        return Traits(
            shape=shape,
            dtype=u.dtype,
            vector=PACK if packed else 1,
            state_vector=PACK if state_packed else 1,
            softplus=self.delta_softplus,
            has_d=self.D is not None,
            has_z=self.z is not None,
            has_reset=self.reset is not None,
            shared_delta=self.shared_delta,
            dense=all(x.is_contiguous() for x in sequences),
        )


def in_packs(x: Tensor) -> bool:
    """Whether packs of adjacent elements are aligned in every row of a tensor."""
    return x.data_ptr() % (PACK * x.element_size()) == 0 and all(
        stride % PACK == 0 for stride in x.stride()[:-1]
    )


def adjacent(x: Tensor) -> Tensor:
    """The tensor with adjacent entries along its last axis."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def operands(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    delta_softplus: bool,
) -> Operands:
    """The operator's inputs, with adjacent channels and states, and parameters without gaps."""
    return Operands(
        adjacent(u),
        adjacent(delta),
        A.contiguous(),
        adjacent(B),
        adjacent(C),
        None if D is None else D.contiguous(),
        None if z is None else adjacent(z),
        None if delta_bias is None else delta_bias.contiguous(),
        None if initial_state is None else initial_state.contiguous(),
        reset,
        delta_softplus,
    )


def address(tensor: Tensor | None) -> int:
    """Where a tensor's data lies; 0 stands for an absent one."""
    return 0 if tensor is None else tensor.data_ptr()


def sequences(tensor: Tensor | None) -> tuple[int, ...]:
    """`Sequences` or `Resets` of place.cuh: address and strides of (replica, row, time, ...)."""
    return (0, 0, 0, 0) if tensor is None else (tensor.data_ptr(), *tensor.stride()[:3])


def state_sequences(tensor: Tensor) -> tuple[int, ...]:
    """`StateSequences` of place.cuh: address and strides of (replica, row, time, group, state)."""
    return (tensor.data_ptr(), *tensor.stride()[:4])


def packed_arguments(sizes: tuple[int, ...], **fields: Fields) -> bytes:
    """A kernel's argument: `Sizes`, then the fields in the order of the structure, 64 bits each."""
    values: list[int] = []
    for field in fields.values():
        if isinstance(field, int):
            values.append(field)
        else:
            values.extend(field)
    return struct.pack(f"={len(sizes)}i{len(sizes) % 2 * 4}x{len(values)}q", *sizes, *values)

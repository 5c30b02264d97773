"""The inputs of a scan as the kernels take them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from keelback.compiled.cuda_operands import PACK, adjacent, in_packs
from keelback.scan.cuda.plan import Shape, Traits


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


def state_sequences(tensor: Tensor) -> tuple[int, ...]:
    """`StateSequences` of place.cuh: address and strides of (replica, row, time, group, state)."""
    return (tensor.data_ptr(), *tensor.stride()[:4])

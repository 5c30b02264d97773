"""The gated norm on the CPU: hands tensors to the compiled kernels, on several threads."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.cuda_operands import address
from keelback.compiled.layouts import Blank, Layout, Signature, layouts_of
from keelback.compiled.threads import run_ranges
from keelback.norm._operands import NormOperands, NormOptions
from keelback.norm._walk import Walk, Walks

#: Numbers of a unit: what it adds to the gradient of the weight is little beside them.
_OF_UNIT = 1 << 16
_PER_MICROSECOND = 500.0  # Outputs that one thread computes.


class CpuNorm:
    """The norms of one signature; see `keelback.compiled.backends.Prepared`."""

    def __init__(self, given: NormOperands[Layout], options: NormOptions) -> None:
        x, gate, weight = given
        self._walks = Walks(given)
        self._how = (gate is not None, options.norm_before_gate, options.sigmoid)
        self._epsilon = options.epsilon
        channels = x.shape[-1]
        self._group = options.group_of(channels)
        self._groups = channels // self._group
        *rows, _ = x.shape
        self._empty = 0 in x.shape
        self._like = torch.empty(0, dtype=x.dtype).numpy()
        self._blank = Blank(x.shape, x.dtype, x.device)
        self._scales = Blank((*rows, self._groups), x.dtype, x.device)
        self._ones = torch.ones(channels, dtype=x.dtype) if weight is None else None
        self._cost = x.shape.numel() / _PER_MICROSECOND

    def _sizes(self, walk: Walk) -> tuple[int, ...]:
        """As the kernels have them; the last is that of the units of a replica."""
        chunk = max(1, _OF_UNIT // self._blank.shape[-1])
        chunks = -(-walk.rows // chunk)
        return walk.rows, walk.middle, walk.inner, self._groups, self._group, chunk, chunks

    def _read(self, walk: Walk, tensors: Sequence[Tensor | None]) -> tuple[list[Any], list[Any]]:
        """Tensors whose channels are adjacent; and their addresses, each followed by strides."""
        read: list[Any] = []
        arguments: list[Any] = []
        for x, strides, copied in zip(tensors, walk.strides, walk.copied, strict=True):
            read.append(x.contiguous() if x is not None and copied else x)
            of_bytes = [step * self._like.itemsize for step in strides]
            arguments += [address(read[-1]), tuple(of_bytes)]
        return read, arguments

    def _weights(self, weight: Tensor | None) -> tuple[Tensor, int]:
        """The weights without gaps, and the bytes from those of one replica to the next."""
        if weight is None:
            assert self._ones is not None
            return self._ones, 0
        return weight.contiguous(), weight.shape[-1] * weight.element_size()

    def forward(
        self, operands: Sequence[Tensor | None], keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The output, and one over the root mean squares for the backward pass."""
        from keelback.norm.cpu import kernels

        x, gate, weight = operands
        y, scales = self._blank(), self._scales() if keep else None
        if self._empty:
            return y, scales
        walk = self._walks.forward()
        sizes = self._sizes(walk)
        _held, given = self._read(walk, (x, gate))
        weights, of_replica = self._weights(weight)
        arguments = (*given, weights.data_ptr(), of_replica, y.data_ptr(), address(scales), sizes)
        like, epsilon, how = self._like, self._epsilon, self._how

        def work(start: int, stop: int) -> None:
            kernels.normalise(like, *arguments, epsilon, how, start, stop)

        run_ranges(work, walk.replicas * sizes[-1], self._cost)
        return y, scales

    def _kept(self, scales: Tensor | None, operands: Sequence[Tensor | None]) -> Tensor:
        """What was kept, without gaps, or computed again where nothing was."""
        if scales is None:
            _, scales = self.forward(operands, True)
        assert scales is not None
        return scales.contiguous()

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Gradients of x, the gate and the weight."""
        from keelback.norm.cpu import kernels

        x, gate, weight = operands
        (dy,), (scales,) = gradients, kept
        assert dy is not None
        dx, dgate = self._blank(), None if gate is None else self._blank()
        if self._empty:
            return dx, dgate, None if weight is None else torch.zeros_like(weight)
        scales = self._kept(scales, operands)
        walk = self._walks.backward(dy)
        sizes = self._sizes(walk)
        _held, given = self._read(walk, (x, gate, dy))
        weights, of_replica = self._weights(weight)
        partial = dx.new_zeros(walk.replicas, sizes[-1], dx.shape[-1])
        found = (dx.data_ptr(), address(dgate), partial.data_ptr())
        read = (*given, weights.data_ptr(), of_replica, scales.data_ptr())
        like, how = self._like, self._how

        def work(start: int, stop: int) -> None:
            kernels.gradients(like, *read, *found, sizes, how, start, stop)

        run_ranges(work, walk.replicas * sizes[-1], 2 * self._cost)
        return dx, dgate, None if weight is None else partial.sum(1).reshape(weight.shape)


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[Any, ...]) -> CpuNorm:
    """The norms of operands with this signature, and with these options."""
    given: Any = NormOperands(*layouts_of(signature))
    return CpuNorm(given, NormOptions(*options))

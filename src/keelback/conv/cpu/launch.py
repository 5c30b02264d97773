"""The causal convolution on the CPU: hands tensors to the compiled kernels, on several threads."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled import LANES
from keelback.compiled.layouts import Blank, Layout, Signature, layouts_of
from keelback.compiled.threads import run_ranges
from keelback.conv._operands import ConvOperands

_CHUNK = 256
_PER_MICROSECOND = 1000.0  # Outputs that one thread computes.


def _taps_first(weight: Tensor) -> Tensor:
    """(replica, channel, tap), the present last, as (replica, tap, channel), the present first."""
    return weight.flip(-1).mT.contiguous()


class CpuConv:
    """The convolutions of one signature; see `keelback.compiled.backends.Prepared`."""

    def __init__(self, given: ConvOperands[Layout], silu: bool) -> None:
        from keelback.conv.cpu.kernels import TILE

        x, self._silu = given.x, silu
        *replicas, rows, length, channels = x.shape
        sequences = rows * (replicas[0] if replicas else 1)
        self._width = given.weight.shape[-1]
        self._sizes, self._tiles = (rows, length, channels), -(-channels // TILE)
        self._sequences, self._chunks = sequences, -(-length // _CHUNK)
        self._empty = not sequences * length * channels
        self._like_x = Blank(x.shape, x.dtype, x.device)
        self._like = torch.empty(0, dtype=x.dtype).numpy()
        self._partial = (*replicas, rows)
        lanes = -(-channels // LANES) * LANES
        self._cost = sequences * length * lanes / _PER_MICROSECOND

    def _strides(self, x: Tensor) -> tuple[int, ...]:
        """In bytes, of (replica, row, time)."""
        found = tuple([stride * x.element_size() for stride in x.stride()[:-1]])
        return (0,) * (3 - len(found)) + found

    def _biases(self, given: ConvOperands[Tensor]) -> Tensor:
        """(replica, channel), zeros for none."""
        if given.bias is None:
            return given.weight.new_zeros(given.weight.shape[:-1])
        return given.bias.contiguous()

    def forward(self, operands: Sequence[Tensor | None], keep: bool) -> tuple[Tensor]:
        """The output."""
        from keelback.conv.cpu import kernels

        given: ConvOperands[Any] = ConvOperands(*operands)
        y = self._like_x()
        if self._empty:
            return (y,)
        x, weights, bias = _adjacent(given.x), _taps_first(given.weight), self._biases(given)
        addresses = (weights.data_ptr(), bias.data_ptr(), y.data_ptr())
        like, strides, sizes = self._like, self._strides(x), self._sizes
        width, silu = self._width, self._silu

        def work(start: int, stop: int) -> None:
            kernels.convolve(
                like, x.data_ptr(), strides, *addresses, sizes, width, _CHUNK, silu, start, stop
            )

        run_ranges(work, self._sequences * self._chunks * self._tiles, self._cost)
        return (y,)

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of x, weight and bias."""
        from keelback.conv.cpu import kernels

        given: ConvOperands[Any] = ConvOperands(*operands)
        dx, channels, width = self._like_x(), self._sizes[2], self._width
        dweight = dx.new_zeros(*self._partial, width, channels)
        dbias = dx.new_zeros(*self._partial, channels)
        if not self._empty:
            (dy,) = gradients
            assert dy is not None
            x, dy = _adjacent(given.x), _adjacent(dy)
            weights, bias = _taps_first(given.weight), self._biases(given)
            found = (dx.data_ptr(), dweight.data_ptr(), dbias.data_ptr())
            read = (self._like, x.data_ptr(), self._strides(x), dy.data_ptr(), self._strides(dy))
            arguments = (*read, weights.data_ptr(), bias.data_ptr(), *found, self._sizes)
            silu = self._silu

            def work(start: int, stop: int) -> None:
                kernels.correlate(*arguments, width, silu, start, stop)

            run_ranges(work, self._sequences * self._tiles, 3 * self._cost)
        of_bias = None if given.bias is None else dbias.sum(-2)
        return dx, dweight.sum(-3).mT.flip(-1), of_bias


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[bool, ...]) -> CpuConv:
    """The convolutions of operands with this signature, and with SiLU or without."""
    given: Any = ConvOperands(*layouts_of(signature))
    return CpuConv(given, *options)

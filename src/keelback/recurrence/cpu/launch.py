"""The diagonal recurrence on the CPU: hands tensors to the compiled kernels."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.layouts import Signature
from keelback.compiled.threads import run_ranges

_PER_MICROSECOND = 500.0  # States that one thread computes.


class CpuRecurrence:
    """The recurrences of one signature; see `keelback.compiled.backends.Prepared`."""

    def __init__(self, shape: Sequence[int]) -> None:
        from keelback.recurrence.cpu.kernels import TILE

        *rows, self._length, self._channels = shape
        self._rows = 1
        for size in rows:
            self._rows *= size
        self._units = self._rows * -(-self._channels // TILE)
        self._numbers = self._rows * self._length * self._channels

    def _steps(self, *tensors: Tensor) -> list[Any]:
        """As arrays (sequence, time, channel)."""
        shape = (self._rows, self._length, self._channels)
        return [x.detach().contiguous().view(shape).numpy() for x in tensors]

    def _states(self, x: Tensor) -> Any:
        """As an array (sequence, channel)."""
        return x.detach().contiguous().view(self._rows, self._channels).numpy()

    def _run(self, work: Callable[[int, int], None], passes: int) -> None:
        run_ranges(work, self._units, passes * self._numbers / _PER_MICROSECOND)

    def forward(self, operands: Sequence[Any], keep: bool) -> tuple[Tensor]:
        """The states after each step."""
        from keelback.recurrence.cpu import kernels

        a, x, first = operands
        h = x.new_empty(x.shape)
        if self._numbers:
            given = (*self._steps(a, x), self._states(first), *self._steps(h))
            self._run(lambda start, stop: kernels.recur(*given, start, stop), 1)
        return (h,)

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Any],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the factors, the inputs and the first states."""
        from keelback.recurrence.cpu import kernels

        (dh,) = gradients
        assert dh is not None
        a, x, first = operands
        found = (x.new_empty(x.shape), x.new_empty(x.shape), x.new_zeros(first.shape))
        if self._numbers:
            given = (*self._steps(a, x), self._states(first), *self._steps(dh))
            results = (*self._steps(*found[:2]), self._states(found[2]))

            def work(start: int, stop: int) -> None:
                kernels.recur_back(*given, *results, start, stop)

            self._run(work, 3)
        return found


def largest(k: Tensor, w: Tensor, first: Tensor) -> Tensor:
    """The largest exponent of RWKV's weights after each step, all but the last rounded up."""
    from keelback.recurrence.cpu import kernels

    k, w, first, found = k.contiguous(), w.contiguous(), first.contiguous(), torch.empty_like(k)
    arrays = [x.numpy() for x in (k, w, first, found)]
    if k.numel():
        units = k.shape[0] * -(-k.shape[2] // kernels.TILE)
        run_ranges(
            lambda start, stop: kernels.largest(*arrays, start, stop),
            units,
            k.numel() / _PER_MICROSECOND,
        )
    return found


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[Any, ...]) -> CpuRecurrence:
    """The recurrences of operands with this signature."""
    x: Any = signature[1]
    return CpuRecurrence(x[0])

"""A step of the scan by heads on the CPU, by a kernel."""

from typing import Any

import torch
from torch import Tensor

from keelback.compiled.layouts import Blank, Layout
from keelback.compiled.threads import run_ranges
from keelback.ssd._operands import Operands, Options

_PER_MICROSECOND = 2000.0  # States that one thread computes.
_DTYPES = (torch.float32, torch.float64)


class CpuStep:
    """Steps of one signature, which have no gradients."""

    def __init__(self, given: Operands[Layout], options: Options, in_place: bool) -> None:
        x, states = given.x, given.initial_states
        assert states is not None
        self._in_place = in_place
        self._softplus, *limits = options
        self._limits = tuple(limits)
        self._y = Blank(x.shape, x.dtype, x.device)
        self._states = Blank(states.shape, states.dtype, states.device)
        self._like = torch.empty(0, dtype=x.dtype).numpy()
        batch, heads, *numbers = states.shape
        self._units = batch * heads
        self._sizes = (heads, heads // given.B.shape[1], *numbers)
        self._cost = self._units * numbers[0] * numbers[1] / _PER_MICROSECOND
        after = states if in_place else states.in_row_major_order()
        # As many of each as the kernel looks at: D has one per head, or also per number.
        axes = (3, 2, 1, 2, 2, 2, 3, 1, 3, 3)
        self._strides = tuple(
            tuple([stride * x.dtype.itemsize for stride in (*_strides(one), 0, 0, 0)[:count]])
            for one, count in zip((*given[:9], after), axes, strict=True)
        )

    def forward(self, operands: Operands[Any]) -> tuple[Tensor, Tensor]:
        """Output and new states; in place, those are the states themselves."""
        from keelback.ssd.cpu.stepping import step_heads

        *given, before, _ = operands
        assert before is not None
        y, after = self._y(), before if self._in_place else self._states()
        tensors = (*given, before, y, after)
        addresses = tuple([0 if x is None else x.data_ptr() for x in tensors])
        known = (self._like, addresses, self._strides, self._sizes, self._softplus, self._limits)
        run_ranges(lambda start, stop: step_heads(*known, start, stop), self._units, self._cost)
        if self._in_place:
            torch.autograd.graph.increment_version(before)
        return y, after


def _strides(x: Layout | None) -> tuple[int, ...]:
    return () if x is None else x.stride


def prepare_step(given: Operands[Layout], options: Options, in_place: bool) -> CpuStep | None:
    """The step over operands of this signature, if the kernel takes them.

    All share one dtype, float32 or float64, and states are neighbours in memory, of the operands
    too. In place, no two elements of the states may be one.
    """
    states = given.initial_states
    floating = [one for one in given.differentiable if one is not None]
    if states is None or {one.dtype for one in floating} not in ({one} for one in _DTYPES):
        return None
    if not all(size for one in floating for size in one.shape):
        return None
    if not all(one.adjacent for one in (given.B, given.C, states)):
        return None
    if in_place and states.repeats:
        return None
    return CpuStep(given, options, in_place)

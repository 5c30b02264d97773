"""One step of the recurrence on the CPU, as in decoding."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from keelback.compiled import LANES
from keelback.compiled.layouts import Layout, row_major
from keelback.scan._operands import Operands
from keelback.scan.cpu.launch import CpuScan

_DTYPES = (torch.float32, torch.float64)


class CpuStep(CpuScan):
    """The steps of one signature: scans of one step, and where states are neighbours by a kernel of
    their own."""

    def __init__(self, given: Operands[Layout], softplus: bool, in_place: bool) -> None:
        super().__init__(given, softplus)
        self._in_place = in_place
        state = given.initial_state
        assert state is not None
        neighbours = all(x.adjacent for x in (given.A, given.B, given.C, state))
        # PyTorch refuses to write where several elements are one.
        repeats = in_place and state.repeats
        self._by_scan = not neighbours or self._plan.sizes.empty or repeats
        rows, states = self._plan.sizes.rows * given.u.shape[-1], self._plan.sizes.states
        self._record = self._record_into(state.stride if in_place else row_major(self._last.shape))
        self._cost = 0.01 * rows * (1 + -(-states // LANES))

    def advance(self, operands: Operands[Tensor]) -> tuple[Tensor, Tensor]:
        """Output and new state; in place, that is the state itself, overwritten."""
        state = operands.initial_state
        assert state is not None
        if self._by_scan:
            y, new_state, _ = self.forward(operands, False)
            new_state = state.copy_(new_state) if self._in_place else new_state
        else:
            y, new_state = self._y(), state if self._in_place else self._last()
            parameters = self._record.filled((*operands, y, new_state))
            self._run_step(parameters, self._plan.blocks, self._cost)
            if self._in_place:
                torch.autograd.graph.increment_version(state)
        return y.view(operands.u.shape), new_state

    @cached_property
    def _run_step(self) -> Callable[[Any, int, float], None]:
        from keelback.scan.cpu.stepping import step_blocks, step_scratch

        return self._runner(step_blocks, step_scratch())


def prepare_step(given: Operands[Layout], softplus: bool, in_place: bool) -> CpuStep | None:
    """The steps over operands like these, if the kernels take them.

    They take float32 and float64, without mixtures.
    """
    dtypes = {x.dtype for x in given if x is not None}
    if len(dtypes) > 1 or dtypes.pop() not in _DTYPES:
        return None
    along = ("u", "delta", "B", "C", "z")
    one_step = {
        name: x._replace(
            shape=torch.Size((x.shape[0], 1, *x.shape[1:])), stride=(x.stride[0], 0, *x.stride[1:])
        )
        for name, x in given._asdict().items()
        if name in along and x is not None
    }
    return CpuStep(given._replace(**one_step), softplus, in_place)

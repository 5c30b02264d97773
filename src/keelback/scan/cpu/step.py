"""One step of the recurrence on the CPU, as in decoding."""

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled import LANES
from keelback.compiled.layouts import Layout, Signature, layouts_of, row_major, signature_of
from keelback.scan._operands import Operands, require_step
from keelback.scan.cpu.launch import CpuScan

_DTYPES = (torch.float32, torch.float64)


def advance_state(
    operands: Operands[Tensor], softplus: bool, in_place: bool
) -> tuple[Tensor, Tensor] | None:
    """Output and new state of `selective_scan_step`; in place, that is the state itself.

    None where that is PyTorch's to do: half precision, and mixtures.

    Raises:
        InputError: An operand has the wrong shape.
    """
    scan = _planned(signature_of(operands), softplus)
    if scan is None:
        return None
    return scan.advance(operands, in_place)


class CpuStep(CpuScan):
    """The steps of one signature: scans of one step, and where states are neighbours by a kernel of
    their own."""

    def __init__(self, given: Operands[Layout], softplus: bool) -> None:
        super().__init__(given, softplus)
        state = given.initial_state
        assert state is not None
        self._neighbours = all(x.adjacent for x in (given.A, given.B, given.C, state))
        # PyTorch refuses to write where several elements are one.
        self._repeats = state.repeats
        rows, states = self._plan.sizes.rows * given.u.shape[-1], self._plan.sizes.states
        last = row_major(self._last.shape)
        self._records = {False: self._record_into(last), True: self._record_into(state.stride)}
        self._cost = 0.01 * rows * (1 + -(-states // LANES))

    def advance(self, operands: Operands[Tensor], in_place: bool) -> tuple[Tensor, Tensor]:
        """Output and new state."""
        state = operands.initial_state
        assert state is not None
        by_scan = not self._neighbours or self._plan.sizes.empty
        if by_scan or (in_place and self._repeats):
            y, new_state, _ = self.forward(operands, False)
            new_state = state.copy_(new_state) if in_place else new_state
        else:
            y, new_state = self._y(), state if in_place else self._last()
            parameters = self._records[in_place].filled((*operands, y, new_state))
            self._run_step(parameters, self._plan.blocks, self._cost)
            if in_place:
                torch.autograd.graph.increment_version(state)
        return y.view(operands.u.shape), new_state

    @cached_property
    def _run_step(self) -> Callable[[Any, int, float], None]:
        from keelback.scan.cpu.stepping import step_blocks, step_scratch

        return self._runner(step_blocks, step_scratch())


@lru_cache(maxsize=1024)
def _planned(signature: Signature, softplus: bool) -> CpuStep | None:
    """The steps over operands like these, if the kernels take them."""
    given: Any = Operands(*layouts_of(signature))
    require_step(given)
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
    return CpuStep(given._replace(**one_step), softplus)

"""One step of the recurrence on the CPU, as in decoding: a scan of one step."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.layouts import Signature, layouts_of, signature_of
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
    y, new_state, _ = scan.forward(operands, False)
    state = operands.initial_state
    assert state is not None
    y = y.view(operands.u.shape)
    return y, state.copy_(new_state) if in_place else new_state


@lru_cache(maxsize=1024)
def _planned(signature: Signature, softplus: bool) -> CpuScan | None:
    """The scan of one step over operands like these, if the kernels take them."""
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
    return CpuScan(given._replace(**one_step), softplus)

"""`torch.ops.keelback.delta_rule`, and the way of a delta rule to its backend."""

from typing import Any

import torch
from torch import Tensor

from keelback.compiled.backends import choose_backend
from keelback.compiled.calls import Calls, Steps
from keelback.compiled.checks import computing_dtype_of
from keelback.compiled.layouts import Signature, layouts_of
from keelback.compiled.operator import Operator
from keelback.compiled.watchers import without_autocast
from keelback.delta import cpu, cuda
from keelback.delta._operands import (
    DIFFERENTIABLE,
    OPTIONS,
    OTHERS,
    Operands,
    dtype_of_states,
    require_delta_rule,
    require_step,
    wanted_dtypes,
)
from keelback.delta.reference import delta_rule_reference, delta_rule_step_reference
from keelback.errors import InputError

BACKENDS: Any = {"cpu": cpu, "cuda": cuda}
NAMES = ("reference", "cpu", "cuda", "chunked")


def _shapes(*arguments: Any) -> tuple[Tensor, ...]:
    """Of output and last states, and of what is kept."""
    operands: Operands[Tensor] = Operands(*arguments[: len(Operands._fields)])
    v, k = operands.v, operands.k
    *rows, _, heads, value = v.shape
    kept = cpu.kept_shapes(v.shape, k.shape[-1])
    _, by_chunks, _, keep = arguments[-4:]
    if not keep or v.is_cuda or not cpu.by_kernels(v.dtype, by_chunks):
        kept = ((v.shape[0], 0),) * 2
    outputs = v.shape, (*rows, heads, k.shape[-1], value)
    of_states = dtype_of_states(v.dtype)
    y, *others = (*outputs, *kept)
    return v.new_empty(y), *(v.new_empty(shape, dtype=of_states) for shape in others)


DELTA_RULE = Operator(
    "delta_rule",
    differentiable=DIFFERENTIABLE,
    others=OTHERS,
    options=OPTIONS,
    outputs=("y", "last_states"),
    kept=("errors", "states"),
    backends=BACKENDS,
    fake=_shapes,
)


def _backend_named(name: str | None, device: torch.device) -> Any:
    """The backend of that name, or that for the device; None is the reference."""
    if name not in (None, *NAMES):
        raise InputError(f"backend is {name!r}; it should be one of {', '.join(NAMES)}")
    return choose_backend(None if name == "chunked" else name, device, BACKENDS, "v")


def _chosen(given: Operands[Any], backend: str | None) -> tuple[Any, Operands[Any]]:
    """The backend for these operands, or None for the reference, and the dtypes that it takes."""
    require_delta_rule(given)
    computing = computing_dtype_of(given, Operands._fields[:-1])
    chosen = _backend_named(backend, given.v.device)
    return chosen, wanted_dtypes(given, computing, chosen is not None and chosen.WIDENS)


def _defined(
    operands: Operands[Tensor], normalise: bool, by_chunks: bool, scale: float
) -> tuple[Tensor, Tensor]:
    return delta_rule_reference(*operands, normalise, scale)


_CALLS = Calls(DELTA_RULE, Operands, _chosen, _defined)


def delta_rule_of(
    operands: Operands[Tensor], normalise: bool, scale: float, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Output in the dtype of v, and last states.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.
    """
    y, last = _CALLS(operands, (normalise, backend == "chunked", scale), backend)
    return y.to(operands.v.dtype), last


def step(operands: Operands[Tensor], normalise: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Output in the dtype of v, and new states, from the initial ones.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.
    """
    call = _STEPS.find(operands, normalise, scale)
    if call is not None:
        y, states = call.forward(operands)
        return y, states
    require_step(operands)
    dtype = computing_dtype_of(operands, (*Operands._fields[:5], "states"))
    *floating, _ = operands
    given: list[Any] = [None if x is None else x.to(dtype) for x in floating]
    with without_autocast(operands.v.device):
        y, states = delta_rule_step_reference(*given, normalise, scale)  # type: ignore[call-arg]
    return y.to(operands.v.dtype), states


def _step_by_kernels(
    signature: Signature, normalise: bool, scale: float
) -> cpu.CpuStep | cuda.CudaStep | None:
    """The step over operands of this signature, if the kernels take them as they are."""
    given: Any = Operands(*layouts_of(signature))
    require_step(given)
    computing_dtype_of(given, (*Operands._fields[:5], "states"))
    backend = BACKENDS.get(given.v.device.type)
    return None if backend is None else backend.prepare_step(given, normalise, scale)


_STEPS = Steps(_step_by_kernels)

"""The CPU backend: hands tensors to the compiled kernels, block by block, on several threads.

Operands may come without their axis of replicas; there is one replica then.
"""

import threading
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keelback.compiled.threads import run_ranges
from keelback.scan.cpu.plan import OPERANDS, PARAMETERS, Plan, plan_of_sizes

_kept = threading.local()
# Scratch beyond this many floats, which only the largest states need, is not kept between scans.
_KEPT_FLOATS = 1 << 18


def aligned_scratch(size: int, dtype: torch.dtype) -> Any:
    """An uninitialised flat array that starts on a cache line."""
    scalar = np.float64 if dtype == torch.float64 else np.float32
    line = 64 // np.dtype(scalar).itemsize
    buffer = np.empty(size + line, scalar)
    start = (-buffer.ctypes.data % 64) // buffer.itemsize
    return buffer[start : start + size]


def kept_scratch(size: int, dtype: torch.dtype) -> Any:
    """Aligned scratch of at least `size` floats that this thread keeps for its next scan."""
    scratch = getattr(_kept, "double" if dtype == torch.float64 else "single", None)
    if scratch is None or scratch.size < size:
        scratch = aligned_scratch(size, dtype)
        if size <= _KEPT_FLOATS:
            setattr(_kept, "double" if dtype == torch.float64 else "single", scratch)
    return scratch


@lru_cache(maxsize=1024)
def _record_without_addresses(
    plan: Plan, flags: tuple[bool, ...], itemsize: int, strides: tuple[tuple[int, ...] | None, ...]
) -> Any:
    values = [0] * len(OPERANDS) + [*plan.sizes, *flags]
    for (name, axes), given in zip(OPERANDS.items(), strides, strict=True):
        width = 1 if name == "reset" else itemsize
        present = [width * stride for stride in given or ()]
        values += [0] * (len(axes) - len(present)) + present
    return np.array(values, np.int64)


def parameters(
    plan: Plan, flags: tuple[bool, ...], itemsize: int, operands: dict[str, Tensor | None]
) -> Any:
    """The record that describes a scan to the kernels.

    The strides of axes that an operand lacks, which can only be its first, are zero.
    """
    tensors = [operands.get(name) for name in OPERANDS]
    strides = tuple([None if x is None else x.stride() for x in tensors])
    words, record = _kept_record()
    words[:] = _record_without_addresses(plan, flags, itemsize, strides)
    words[: len(tensors)] = [0 if x is None else x.data_ptr() for x in tensors]
    return record


def _kept_record() -> Any:
    """This thread's record of parameters, once as integers: a scan is over before the next."""
    if not hasattr(_kept, "record"):
        record = np.zeros(1, PARAMETERS)
        _kept.record = record.view(np.int64), record
    return _kept.record


def _plan(u: Tensor, A: Tensor, B: Tensor) -> Plan:
    *replicas, rows, length, channels = u.shape
    return plan_of_sizes(
        replicas[0] if replicas else 1, rows, length, channels, A.shape[-1], B.shape[-2]
    )


def scan_forward(
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
    keep_checkpoints: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, last state and checkpoints of `keelback::selective_scan`."""
    from keelback.scan.cpu.forward import forward_blocks, forward_scratch

    plan = _plan(u, A, B)
    y = u.new_empty(u.shape)
    last = u.new_empty(u.shape[:-2] + A.shape[-2:])
    checkpoints = u.new_empty(plan.checkpoint_shape(keep_checkpoints))
    if plan.empty:
        last.zero_() if initial_state is None else last.copy_(initial_state)
        return y, last, checkpoints
    record = parameters(
        plan,
        (delta_softplus, False),
        u.element_size(),
        {
            "u": u,
            "delta": delta if delta.shape == u.shape else delta.expand(u.shape),
            "z": z,
            "y": y,
            "A": A,
            "B": B,
            "C": C,
            "D": D,
            "bias": delta_bias,
            "reset": reset,
            "initial": initial_state,
            "last": last,
            "checkpoints": checkpoints if keep_checkpoints else None,
        },
    )
    size = forward_scratch(plan.states, plan.chunk)

    def work(start: int, stop: int) -> None:
        forward_blocks(record, kept_scratch(size, u.dtype), start, stop)

    run_ranges(work, plan.blocks, plan.cost)
    return y, last, checkpoints


def _partial_sums(count: int, x: Tensor, dims: int) -> Tensor:
    """Room for a sum of `count` tensors like x, which has `dims` axes with that of replicas."""
    if count == 1:
        return x.new_empty(x.shape)
    return x.new_empty((count, *(1,) * (dims - x.dim()), *x.shape))


def _added_up(partial: Tensor, x: Tensor) -> Tensor:
    return partial if partial.dim() == x.dim() else partial.sum(0).view(x.shape)


def scan_gradients(
    dy: Tensor | None,
    dlast: Tensor | None,
    checkpoints: Tensor,
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
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and initial_state."""
    from keelback.scan.cpu.backward import backward_scratch, backward_units

    plan = _plan(u, A, B)
    shared_delta = delta.shape[-1] < u.shape[-1]
    rows, per_state = u.shape[:-2], A.shape[-2:]
    du = u.new_empty(u.shape)
    ddelta_parts = plan.groups * plan.splits if shared_delta else 1
    ddelta = _partial_sums(ddelta_parts, delta, 4)
    dA = u.new_empty(rows + per_state)
    dB = _partial_sums(plan.splits, B, 5)
    dC = _partial_sums(plan.splits, C, 5)
    dD = None if D is None else u.new_empty(rows + per_state[:1])
    dz = None if z is None else u.new_empty(z.shape)
    dbias = None if delta_bias is None else u.new_empty(rows + per_state[:1])
    dinitial = None if initial_state is None else u.new_empty(initial_state.shape)
    if plan.empty:
        for gradient in (ddelta, dA, dB, dC, dD, dbias):
            if gradient is not None:
                gradient.zero_()
        if dinitial is not None:
            dinitial.zero_() if dlast is None else dinitial.copy_(dlast)
    else:
        record = parameters(
            plan,
            (delta_softplus, shared_delta),
            u.element_size(),
            {
                "u": u,
                "delta": delta if delta.shape == u.shape else delta.expand(u.shape),
                "z": z,
                "A": A,
                "B": B,
                "C": C,
                "D": D,
                "bias": delta_bias,
                "reset": reset,
                "checkpoints": checkpoints,
                "dy": dy,
                "dlast": dlast,
                "du": du,
                "ddelta": ddelta,
                "dA": dA,
                "dB": dB,
                "dC": dC,
                "dD": dD,
                "dz": dz,
                "dbias": dbias,
                "dinitial": dinitial,
            },
        )
        size = backward_scratch(plan.states, plan.chunk)

        def work(start: int, stop: int) -> None:
            backward_units(record, kept_scratch(size, u.dtype), start, stop)

        run_ranges(work, plan.units, 3.0 * plan.cost)
    return (
        du,
        _added_up(ddelta, delta),
        dA.sum(-3),
        _added_up(dB, B),
        _added_up(dC, C),
        None if dD is None else dD.sum(-2),
        dz,
        None if dbias is None else dbias.sum(-2),
        dinitial,
    )


def scan_backward(*arguments: Any) -> tuple[Tensor, ...]:
    """What `scan_gradients` returns, but an empty tensor for an absent operand."""
    gradients = scan_gradients(*arguments)
    nothing = arguments[3].new_empty
    return tuple(nothing(0) if gradient is None else gradient for gradient in gradients)

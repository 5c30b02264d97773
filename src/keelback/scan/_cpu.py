"""The CPU backend: hands tensors to the compiled kernels, block by block, on several threads."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from keelback.scan._layout import FLAGS, OPERANDS, PARAMETERS, Plan, plan_of_sizes
from keelback.scan._threads import run_ranges


def aligned_scratch(size: int, dtype: torch.dtype) -> Any:
    """An uninitialised flat array that starts on a cache line."""
    scalar = np.float64 if dtype == torch.float64 else np.float32
    line = 64 // np.dtype(scalar).itemsize
    buffer = np.empty(size + line, scalar)
    start = (-buffer.ctypes.data % 64) // buffer.itemsize
    return buffer[start : start + size]


def parameters(plan: Plan, flags: dict[str, bool], operands: dict[str, Tensor | None]) -> Any:
    """The record that describes a scan to the kernels."""
    values = list(plan.sizes)
    values += [flags.get(name, False) for name in FLAGS]
    for name, axes in OPERANDS.items():
        tensor = operands.get(name)
        if tensor is None:
            values += [0] * (1 + len(axes))
        else:
            itemsize = tensor.element_size()
            values.append(tensor.data_ptr())
            values += [stride * itemsize for stride in tensor.stride()]
    return np.array(values, np.int64).view(PARAMETERS)


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
    from keelback.scan._forward_kernels import forward_blocks, forward_scratch

    plan = plan_of_sizes(*u.shape, A.shape[-1], B.shape[-2])
    y = u.new_empty(u.shape)
    last = u.new_empty(u.shape[:2] + A.shape[1:])
    checkpoints = u.new_empty(plan.checkpoint_shape(keep_checkpoints))
    if plan.empty:
        last.zero_() if initial_state is None else last.copy_(initial_state)
        return y, last, checkpoints
    record = parameters(
        plan,
        {"softplus": delta_softplus},
        {
            "u": u,
            "delta": delta.expand(u.shape),
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
        forward_blocks(record, aligned_scratch(size, u.dtype), start, stop)

    run_ranges(work, plan.blocks, plan.cost)
    return y, last, checkpoints


def scan_backward(
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
) -> tuple[Tensor, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and initial_state.

    That of an absent operand is an empty tensor.
    """
    from keelback.scan._backward_kernels import backward_scratch, backward_units

    plan = plan_of_sizes(*u.shape, A.shape[-1], B.shape[-2])
    split = plan.splits > 1
    shared_delta = delta.shape[-1] < u.shape[-1]
    rows, state = u.shape[:2], A.shape[1:]
    du = u.new_empty(u.shape)
    ddelta_parts = plan.groups * plan.splits if shared_delta else 1
    ddelta = u.new_empty((ddelta_parts, *delta.shape))
    dA = u.new_empty(rows + state)
    dB = u.new_empty((plan.splits, *B.shape))
    dC = u.new_empty((plan.splits, *C.shape))
    dD = None if D is None else u.new_empty(rows + state[:1])
    dz = None if z is None else u.new_empty(z.shape)
    dbias = None if delta_bias is None else u.new_empty(rows + state[:1])
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
            {"softplus": delta_softplus, "shared_delta": shared_delta},
            {
                "u": u,
                "delta": delta.expand(u.shape),
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
            backward_units(record, aligned_scratch(size, u.dtype), start, stop)

        run_ranges(work, plan.units, 3.0 * plan.cost)
    gradients = (
        du,
        ddelta.sum(0) if ddelta_parts > 1 else ddelta[0],
        dA.sum(1),
        dB.sum(0) if split else dB[0],
        dC.sum(0) if split else dC[0],
        None if dD is None else dD.sum(1),
        dz,
        None if dbias is None else dbias.sum(1),
        dinitial,
    )
    return tuple(u.new_empty(0) if gradient is None else gradient for gradient in gradients)

"""`torch.ops.keelback.selective_scan` and its backward for tensors on an NVIDIA GPU."""

import torch
from torch import Tensor

from keelback.compiled.cuda_operands import adjacent
from keelback.scan.cuda.backward import run_backward
from keelback.scan.cuda.forward import run_forward
from keelback.scan.cuda.operands import operands


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
    """Output, last state, and no checkpoints: the backward pass makes its own."""
    given = operands(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus)
    checkpoints = u.new_empty((*u.shape[:2], 0, A.shape[-1], u.shape[-1]))
    if given.shape.empty:
        last = A.new_zeros(u.shape[:2] + A.shape[1:])
        if initial_state is not None:
            last.copy_(initial_state)
        return torch.empty_like(u), last, checkpoints
    y, last = run_forward(given)
    return y, last, checkpoints


def scan_backward(
    dy: Tensor | None,
    dlast_state: Tensor | None,
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
    """The gradients of u, delta, A, B, C, D, z, delta_bias, initial_state; empty where absent."""
    given = operands(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus)
    present = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if given.shape.empty:
        gradients: list[Tensor | None] = [
            None if x is None else torch.zeros_like(x) for x in present
        ]
        if initial_state is not None and dlast_state is not None:
            gradients[-1] = dlast_state.clone()
    else:
        dy = torch.zeros_like(u) if dy is None else adjacent(dy)
        dlast = None if dlast_state is None else dlast_state.contiguous()
        gradients = [*run_backward(given, dy, dlast)]
    absent = (u.new_empty((0,)) for _ in present)
    return tuple(
        empty if x is None or gradient is None else gradient
        for x, gradient, empty in zip(present, gradients, absent, strict=True)
    )

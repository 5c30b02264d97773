"""The CPU scan of plain tensors, without the detour through PyTorch's dispatcher.

On small inputs the operator's way through the dispatcher and its autograd formula takes as long as
the scan. Where no transform, mode or wrapper is there to see the call, it makes no difference, and
the kernels are called from a plain `torch.autograd.Function`.
"""

from typing import Any

import torch
from torch import Tensor

from keelback.compiled.replicas import one_replica
from keelback.compiled.watchers import needs_gradient, runs_eagerly
from keelback.scan import _op
from keelback.scan.cpu import launch as _cpu


class EagerScan(torch.autograd.Function):
    """Output and last state of the scan of operands without an axis of replicas."""

    @staticmethod
    def forward(ctx: Any, delta_softplus: bool, *operands: Any) -> tuple[Tensor, Tensor]:
        arguments: list[Any] = [*operands, delta_softplus, True]
        y, last_state, checkpoints = _cpu.scan_forward(*arguments)
        ctx.save_for_backward(checkpoints, *operands)
        ctx.delta_softplus = delta_softplus
        ctx.set_materialize_grads(False)
        return y, last_state

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dlast_state: Tensor | None) -> tuple[Any, ...]:
        checkpoints, *operands = ctx.saved_tensors
        if dy is None and dlast_state is None:
            return (None,) * (1 + len(operands))
        if not torch.is_grad_enabled() and runs_eagerly(dy, dlast_state, checkpoints):
            given: list[Any] = [dy, dlast_state, checkpoints, *operands, ctx.delta_softplus]
            return (None, *_cpu.scan_gradients(*given), None)
        replicated = [*one_replica(dy, dlast_state), checkpoints, *one_replica(*operands)]
        computed = _op.run_scan_backward(*replicated, ctx.delta_softplus)
        kept = (
            None if x is None else gradient.squeeze(0)
            for x, gradient in zip(operands[: len(computed)], computed, strict=True)
        )
        return (None, *kept, None)


def eager_scan(delta_softplus: bool, *operands: Any) -> tuple[Tensor, Tensor]:
    """Output and last state of `keelback::selective_scan`, of operands as `selective_scan`'s."""
    if needs_gradient(*operands):
        y, last_state = EagerScan.apply(delta_softplus, *operands)  # type: ignore[no-untyped-call]
        return y, last_state
    arguments: list[Any] = [*operands, delta_softplus, False]
    y, last_state, _ = _cpu.scan_forward(*arguments)
    return y, last_state

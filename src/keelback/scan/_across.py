"""One long sequence over several processes, each of which scans its part of the length."""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor

from keelback.compiled.across import (
    adjoints_between,
    gathered,
    refuse_second_derivatives,
    require_processes,
    states_between,
)
from keelback.errors import InputError
from keelback.scan._op import ScanBackend, across_backend
from keelback.scan._operands import Operands

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup  # Not in every build of PyTorch.


def selective_scan_across(
    u: Float[Tensor, "batch length channels"],
    delta: Float[Tensor, "batch length #channels"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "batch length groups state"],
    C: Float[Tensor, "batch length groups state"],
    D: Float[Tensor, " channels"] | None = None,
    z: Float[Tensor, "batch length channels"] | None = None,
    delta_bias: Float[Tensor, " channels"] | None = None,
    delta_softplus: bool = False,
    initial_state: Float[Tensor, "batch channels state"] | None = None,
    return_last_state: bool = False,
    *,
    reset: Bool[Tensor, "batch length"] | None = None,
    group: "ProcessGroup | None" = None,
) -> (
    Float[Tensor, "batch length channels"]
    | tuple[Float[Tensor, "batch length channels"], Float[Tensor, "batch channels state"]]
):
    """`selective_scan` of one sequence that is cut along its length over the processes of a group.

    Each process passes its own part and gets the output of that part: process r those steps that
    follow process r - 1's. Parts may differ in length. The result is that of one scan over the
    whole, gradients included; gradients of A, D and delta_bias are those of the part, to be summed
    over the processes. All processes of the group call it, and its backward pass, together.

    Each part is scanned from zero, processes exchange the states at the ends of the parts and the
    decays over them, and each adds what its first outputs lack: those that still feel the state
    before them. On a GPU that is the correction that the spans of one long scan need anyway. On a
    CPU those first steps are scanned once more, until the slowest decay is below the smallest
    normal number, and the backward pass goes through them once more too. Exchanged are 2 numbers
    a batch, channel and state, forward and backward, whatever the length. Operands that are
    not described here are as in `selective_scan`, each process's part of them.

    Args:
        initial_state: The state before the first step of the first process. All processes pass it,
            or none does; its gradient is whole on each of them.
        return_last_state: Whether to return the state after the last step of the last process too,
            which every process gets.
        group: The processes; if absent, all.

    Raises:
        InputError: torch.distributed is not initialised, this process is not in the group, or an
            operand does not fit.

    Examples:
        >>> import torch.distributed as dist
        >>> store = dist.HashStore()
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> u, delta = torch.randn(2, 50, 4), torch.full((2, 50, 4), 0.1)
        >>> B, C = torch.randn(2, 50, 1, 3), torch.randn(2, 50, 1, 3)
        >>> y = selective_scan_across(u, delta, -torch.ones(4, 3), B, C)
        >>> dist.destroy_process_group()
        >>> y.shape
        torch.Size([2, 50, 4])
    """
    require_processes("selective_scan", group)
    given = Operands(u, delta, A, B, C, D, z, delta_bias, initial_state, reset)
    backend, operands = across_backend(given)
    if backend is None or u.is_meta:
        raise InputError(f"u is on {u.device}; processes scan together on CPUs and NVIDIA GPUs")
    y, last = _ScanAcross.apply(backend, group, delta_softplus, *operands)  # type: ignore[no-untyped-call]
    return (y.to(u.dtype), last) if return_last_state else y.to(u.dtype)


class _ScanAcross(torch.autograd.Function):
    """Output and last state of operands as the backend takes them."""

    @staticmethod
    def forward(
        ctx: Any,
        backend: ScanBackend,
        group: "ProcessGroup | None",
        softplus: bool,
        *tensors: Any,
    ) -> tuple[Tensor, Tensor]:
        operands: Operands[Tensor] = Operands(*tensors)
        before = operands.initial_state
        part = backend.ForwardPart(operands._replace(initial_state=None), softplus)
        ends, decays = zip(*gathered([part.end, part.decay], group), strict=True)
        states = states_between(ends, decays, before)
        start = states[dist.get_rank(group)]
        ctx.backend, ctx.group, ctx.softplus, ctx.felt = backend, group, softplus, part.felt
        ctx.has_before = before is not None
        ctx.save_for_backward(*operands._replace(initial_state=start), *decays)
        ctx.set_materialize_grads(False)
        return part.output(start), states[-1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dlast: Tensor | None) -> tuple[Any, ...]:
        refuse_second_derivatives("selective_scan")
        saved, count = ctx.saved_tensors, len(Operands._fields)
        operands: Operands[Tensor] = Operands(*saved[:count])
        decays, start = saved[count:], operands.initial_state
        assert start is not None
        dy = torch.zeros_like(operands.u) if dy is None else dy
        dlast = torch.zeros_like(start) if dlast is None else dlast
        part = ctx.backend.BackwardPart(dy, operands, ctx.softplus, ctx.felt)
        starts, lasts = zip(*gathered([part.of_start, dlast], ctx.group), strict=True)
        of_before, *of_ends = adjoints_between(starts, lasts, decays)
        gradients = part.gradients(of_ends[dist.get_rank(ctx.group)])
        return None, None, None, *gradients, of_before if ctx.has_before else None, None

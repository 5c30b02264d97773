"""One long sequence over several processes, each of which scans its part of the length."""

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from keelback.errors import InputError
from keelback.scan._api import prepare
from keelback.scan._checks import require_scan_shapes, reset_mask
from keelback.scan._cuda import causal_conv
from keelback.scan._op import run_scan, run_scan_backward

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup  # Not in every build of PyTorch.

#: Stands for the decay over a part with a reset in it: nothing remains, not even an infinity.
_FORGOTTEN = -1.0
#: Steps whose sizes are summed up together.
_CHUNK = 512


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
    decays over them, and each scans once more only as many of its first steps as still feel the
    state before them: until the slowest decay is below the smallest normal number. The backward
    pass first finds the gradient of the state before a part, by the same steps, then goes through
    the part once. Exchanged are 2 numbers a batch, channel and state, forward and backward,
    whatever the length.

    Args:
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, reset: As in `selective_scan`.
        initial_state: The state before the first step of the first process. All processes pass it,
            or none does; its gradient is whole on each of them.
        return_last_state: Whether to return the state after the last step of the last process too,
            which every process gets.
        group: The processes; if absent, all.

    Raises:
        InputError: torch.distributed is not initialised, or an operand does not fit.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "there are no processes to scan across: torch.distributed.init_process_group comes "
            "first; selective_scan scans on one"
        )
    given = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    require_scan_shapes(*(None if x is None else x.shape for x in given))  # type: ignore[arg-type]
    mask = reset_mask(reset, None, u, *u.shape[:2])
    backend, operands = prepare(given, None)
    if backend == "reference":
        raise InputError(f"u is on {u.device}; processes scan together on CPUs and NVIDIA GPUs")
    y, last = _ScanAcross.apply(group, delta_softplus, mask, *operands)  # type: ignore[no-untyped-call]
    return (y.to(u.dtype), last) if return_last_state else y.to(u.dtype)


class _ScanAcross(torch.autograd.Function):
    """Output and last state; the operands are as the operator takes them, less its replicas."""

    @staticmethod
    def forward(
        ctx: Any,
        group: "ProcessGroup | None",
        softplus: bool,
        reset: Tensor | None,
        *operands: Any,
    ) -> tuple[Tensor, Tensor]:
        before: Tensor | None = operands[-1]
        parameters: Any = operands[:-1]
        y, end = _scan(*parameters, None, reset, softplus)
        u, delta, A, *_, delta_bias = parameters
        decay, felt = _decay_of(u, delta, A, delta_bias, reset, softplus)
        parts = _gathered(torch.stack([end, decay]), group)
        states = [torch.zeros_like(end) if before is None else before]
        for end_of_part, decay_of_part in parts:
            states.append(_decayed(decay_of_part, states[-1]) + end_of_part)
        start = states[dist.get_rank(group)]
        first = _first_steps(felt, *parameters)
        y[:, :felt] = _scan(*first, start, _upto(reset, felt), softplus)[0]
        ctx.group, ctx.softplus, ctx.felt = group, softplus, felt
        ctx.has_before = before is not None
        ctx.save_for_backward(start, reset, *parameters, *(decay for _, decay in parts))
        ctx.set_materialize_grads(False)
        return y, states[-1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dlast: Tensor | None) -> tuple[Any, ...]:
        start, reset, *saved = ctx.saved_tensors
        parameters, decays = saved[:_PARAMETERS], saved[_PARAMETERS:]
        rank = dist.get_rank(ctx.group)
        dy = torch.zeros_like(parameters[0]) if dy is None else dy
        dlast = torch.zeros_like(start) if dlast is None else dlast
        first = _first_steps(ctx.felt, *parameters)
        reset_first = _upto(reset, ctx.felt)
        of_start = _gradients(dy[:, : ctx.felt], None, *first, start, reset_first, ctx.softplus)[-1]
        assert of_start is not None
        parts = _gathered(torch.stack([of_start, dlast]), ctx.group)
        adjoint = torch.stack([of_last for _, of_last in parts]).sum(0)
        own = adjoint
        for r in reversed(range(len(parts))):
            own = adjoint if r == rank else own
            adjoint = _decayed(decays[r], adjoint) + parts[r][0]
        *gradients, _ = _gradients(dy, own, *parameters, start, reset, ctx.softplus)
        return None, None, None, *gradients, adjoint if ctx.has_before else None


#: u, delta, A, B, C, D, z and delta_bias; the first two, the next but one, ... have a length.
_PARAMETERS = 8
_WITH_LENGTH = (True, True, False, True, True, False, True, False)


def _upto(x: Tensor | None, steps: int) -> Tensor | None:
    return None if x is None else x[:, :steps]


def _first_steps(steps: int, *parameters: Tensor | None) -> list[Any]:
    return [
        _upto(x, steps) if long else x for x, long in zip(parameters, _WITH_LENGTH, strict=True)
    ]


def _replicated(*operands: Any) -> list[Any]:
    return [x.unsqueeze(0) if isinstance(x, Tensor) else x for x in operands]


def _scan(*operands: Any) -> tuple[Tensor, Tensor]:
    y, last, _ = run_scan(*_replicated(*operands), False)
    return y.squeeze(0), last.squeeze(0)


def _gradients(dy: Tensor, dlast: Tensor | None, *operands: Any) -> list[Tensor | None]:
    """Of u, ..., delta_bias and the initial state."""
    replicated = _replicated(dy, dlast, *operands)
    u = replicated[2]
    # On the GPU the backward pass makes checkpoints of its own.
    keep = not u.is_cuda
    checkpoints = run_scan(*replicated[2:], True)[2] if keep else u.new_empty(0)
    found = run_scan_backward(*replicated[:2], checkpoints, *replicated[2:])
    return [
        None if x is None else gradient.squeeze(0)
        for x, gradient in zip(operands, found, strict=False)
    ]


def _decay_of(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    delta_bias: Tensor | None,
    reset: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, int]:
    """What remains of a state after the part, and how many steps feel the state before it."""
    batch, length, channels = u.shape
    if u.numel() == 0 or A.numel() == 0:
        return torch.ones(batch, channels, A.shape[1], dtype=A.dtype, device=A.device), 0
    elapsed = _elapsed(delta, delta_bias, softplus, A.dtype).cumsum(1)
    decay = torch.exp(elapsed[:, -1:].mT * A).expand(batch, channels, A.shape[1])
    slowest = (elapsed * A.amax(1)).amax(-1)
    dead = slowest < math.log(torch.finfo(A.dtype).tiny)
    ends = _CHUNK * torch.arange(1, dead.shape[1] + 1, device=u.device)
    felt = torch.where(dead, 0, ends).amax(1) + _CHUNK
    if reset is not None:
        cut = reset.any(1)
        decay = torch.where(cut[:, None, None], _FORGOTTEN, decay)
        felt = torch.where(cut, reset.int().argmax(1).minimum(felt), felt)
    return decay, min(length, int(felt.amax()))


def _elapsed(
    delta: Tensor, delta_bias: Tensor | None, softplus: bool, dtype: torch.dtype
) -> Float[Tensor, "batch chunks #channels"]:
    """The sums of the step sizes over each `_CHUNK` steps."""
    bias = delta.new_zeros(delta.shape[2], dtype=dtype) if delta_bias is None else delta_bias
    if delta.is_cuda and len(bias) == delta.shape[2]:
        return causal_conv.elapse(delta.unsqueeze(0), bias.unsqueeze(0), softplus, _CHUNK)[0]
    chunks = [_elapsed_over(x, bias, softplus) for x in delta.split(_CHUNK, dim=1)]
    return torch.stack(chunks, dim=1)


def _elapsed_over(delta: Tensor, bias: Tensor, softplus: bool) -> Float[Tensor, "batch #channels"]:
    sizes = delta.to(bias.dtype) + bias
    return (F.softplus(sizes) if softplus else sizes).sum(1)


def _decayed(decay: Tensor, state: Tensor) -> Tensor:
    nothing = (decay == _FORGOTTEN) | (state == 0)
    return torch.where(nothing, torch.zeros_like(state), decay * state)


def _gathered(x: Tensor, group: "ProcessGroup | None") -> list[Tensor]:
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.contiguous(), group=group)
    return parts

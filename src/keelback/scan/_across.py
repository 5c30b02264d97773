"""One long sequence over several processes, each of which scans its part of the length."""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from keelback.errors import InputError
from keelback.scan._api import selective_scan

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup  # Not in every build of PyTorch.

#: Stands for the decay over a part with a reset in it: nothing remains, not even an infinity.
_FORGOTTEN = -1.0


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

    Each part is scanned twice, forward and backward: from zero for the state that it passes on, and
    from its true start. Between the two, processes exchange a state and a decay each, forward, and
    the gradient of a state, backward: 2 and 2 times batch * channels * state numbers a process,
    whatever the length. Time falls as 2 / processes, memory as 1 / processes.

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
    operands = (u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    _, end = selective_scan(*operands, return_last_state=True, reset=reset)
    decay = _decay_over(delta, A, delta_bias, delta_softplus, reset, end)
    before = torch.zeros_like(end) if initial_state is None else initial_state.to(end.dtype)
    start, last = _Exchange.apply(end, decay, before, group)  # type: ignore[no-untyped-call]
    y = selective_scan(*operands, initial_state=start, reset=reset)
    assert isinstance(y, Tensor)
    return (y, last) if return_last_state else y


def _decay_over(
    delta: Tensor,
    A: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reset: Tensor | None,
    like: Tensor,
) -> Tensor:
    """What remains of a state after the part: exp of A times the sum of its step sizes."""
    sizes = delta.to(like.dtype)
    if delta_bias is not None:
        sizes = sizes + delta_bias.to(like.dtype)
    if delta_softplus:
        sizes = F.softplus(sizes)
    decay = torch.exp(sizes.sum(1).unsqueeze(-1) * A.to(like.dtype)).expand_as(like)
    if reset is not None:
        decay = torch.where(reset.any(1)[:, None, None], _FORGOTTEN, decay)
    return decay


def _decayed(decay: Tensor, state: Tensor) -> Tensor:
    nothing = (decay == _FORGOTTEN) | (state == 0)
    return torch.where(nothing, torch.zeros_like(state), decay * state)


def _gathered(x: Tensor, group: "ProcessGroup | None") -> list[Tensor]:
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.contiguous(), group=group)
    return parts


class _Exchange(torch.autograd.Function):
    """From each part's end state (from zero), its decay, and the state before all of them: the
    state before this process's part and that after the last one; h_{r+1} = decay_r h_r + end_r.
    """

    @staticmethod
    def forward(
        ctx: Any, end: Tensor, decay: Tensor, before: Tensor, group: "ProcessGroup | None"
    ) -> tuple[Tensor, Tensor]:
        parts = _gathered(torch.stack([end, decay]), group)
        states = [before]
        for end_of_part, decay_of_part in parts:
            states.append(_decayed(decay_of_part, states[-1]) + end_of_part)
        rank = dist.get_rank(group)
        ctx.group = group
        ctx.save_for_backward(states[rank], *(decay for _, decay in parts))
        return states[rank].clone(), states[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        state, *decays = ctx.saved_tensors
        rank = dist.get_rank(ctx.group)
        parts = _gathered(torch.stack(gradients), ctx.group)
        adjoint = torch.stack([of_last for _, of_last in parts]).sum(0)
        of_end = of_decay = torch.zeros_like(state)
        for r in reversed(range(len(parts))):
            if r == rank:
                of_end, of_decay = adjoint, adjoint * state
            adjoint = _decayed(decays[r], adjoint) + parts[r][0]
        return of_end, of_decay, adjoint, None

"""What processes exchange that scan one sequence together, each a part of its length."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from keelback.compiled.decay import decayed
from keelback.errors import InputError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup  # Not in every build of PyTorch.


def require_processes(scan: str, group: "ProcessGroup | None") -> None:
    """Raise unless this is one of the group's processes, where `scan` does the same on one.

    Raises:
        InputError: torch.distributed is not initialised, or this process is not in the group.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "there are no processes to scan across: torch.distributed.init_process_group comes "
            f"first; {scan} scans on one"
        )
    if dist.get_rank(group) < 0:
        raise InputError("this process is not in the group; only those that are in it call this")


def refuse_second_derivatives(scan: str) -> None:
    """Raise in a backward pass that is to be differentiated itself (`create_graph`)."""
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "a scan over several processes has first derivatives only; "
            f"for second derivatives call {scan}(..., backend='reference') on one"
        )


def gathered(own: Sequence[Tensor], group: "ProcessGroup | None") -> list[list[Tensor]]:
    """These tensors of every process, in the order of the processes, by one collective.

    They have one dtype, and the same shapes everywhere.
    """
    flat = torch.cat([x.reshape(-1) for x in own])
    parts = [torch.empty_like(flat) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, flat, group=group)
    sizes = [x.numel() for x in own]
    return [
        [piece.view(x.shape) for piece, x in zip(part.split(sizes), own, strict=True)]
        for part in parts
    ]


def states_between(
    ends: Sequence[Tensor], decays: Sequence[Tensor], first: Tensor | None
) -> list[Tensor]:
    """The states before each part and after the last one.

    Args:
        ends: after each part, had it begun from zero.
        decays: over each part; they broadcast to a state.
        first: before the first part; zero if absent.
    """
    states = [torch.zeros_like(ends[0]) if first is None else first]
    for end, decay in zip(ends, decays, strict=True):
        states.append(decayed(decay, states[-1]) + end)
    return states


def adjoints_between(
    starts: Sequence[Tensor], lasts: Sequence[Tensor], decays: Sequence[Tensor]
) -> list[Tensor]:
    """The gradients of what `states_between` gives and of `first`, as of one chain.

    Args:
        starts: the gradient of the state before each part by the part's own outputs.
        lasts: the gradient of the state after the last part, from each process.
        decays: over each part.

    Returns:
        The gradient of the state before the first part, then of those after each part.
    """
    found = [torch.stack(list(lasts)).sum(0)]
    for start, decay in zip(reversed(starts), reversed(decays), strict=True):
        found.append(decayed(decay, found[-1]) + start)
    return found[::-1]

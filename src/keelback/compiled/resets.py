"""Where packed sequences start: the positions before which an operator zeroes its state."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from keelback.compiled.checks import require_shape, require_tensor
from keelback.compiled.watchers import runs_eagerly
from keelback.errors import InputError


def require_reset(reset: Any, rows: torch.Size, device: torch.device, name: str = "u") -> None:
    """Raise unless a mask, or its layout, is of (batch, length) and where the operand `name` is."""
    require_tensor("reset", reset)
    require_shape("reset", reset.shape, tuple(rows))
    if reset.dtype != torch.bool:
        raise InputError(f"reset has dtype {reset.dtype}; it should be torch.bool")
    if reset.device != device:
        raise InputError(f"reset is on {reset.device}; it should be on {device}, as {name} is")


def starts_of(
    reset: Tensor | None,
    cu_seqlens: Tensor | None,
    seq_idx: Tensor | None,
    x: Tensor,
    axes: tuple[str, ...],
    name: str,
) -> Tensor | None:
    """The mask of the positions where sequences start, written in one of three ways, or in none.

    Args:
        reset: The mask itself.
        cu_seqlens: The bounds (0, ..., length) of the sequences packed into a batch of one.
        seq_idx: The number of each step's sequence, (batch, length).
        x: An operand that begins with (batch, length).
        axes: The names of its axes.
        name: Its own name.

    Raises:
        InputError: More than one is given, or they do not fit x.
    """
    if cu_seqlens is not None:
        require_shape(name, x, axes)
        reset = reset_of(cu_seqlens, reset, x)
    if seq_idx is None:
        return reset
    if reset is not None:
        raise InputError("seq_idx is given with reset or cu_seqlens; one of the three should be")
    require_shape(name, x, axes)
    require_tensor("seq_idx", seq_idx)
    require_shape("seq_idx", seq_idx, tuple(x.shape[:2]))
    if not seq_idx.shape[1]:
        return torch.zeros_like(seq_idx, dtype=torch.bool)
    return F.pad(seq_idx[:, 1:] != seq_idx[:, :-1], (1, 0))


def reset_of(cu_seqlens: Tensor, reset: Tensor | None, u: Tensor) -> Tensor:
    """The mask of the positions where packed sequences start."""
    if reset is not None:
        raise InputError("both reset and cu_seqlens are given; one of them should be")
    batch, length = u.shape[:2]
    require_tensor("cu_seqlens", cu_seqlens)
    require_shape("cu_seqlens", cu_seqlens, ("sequences + 1",))
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise InputError(f"cu_seqlens has dtype {cu_seqlens.dtype}; it should be int32 or int64")
    if batch != 1:
        raise InputError(
            f"cu_seqlens is given for a batch of {batch}; packed sequences should form a batch of 1"
        )
    if is_compiling() or not runs_eagerly(cu_seqlens):
        return _reset_unseen(cu_seqlens, length)
    bounds = cu_seqlens.tolist()
    if not _rises(bounds, length):
        raise InputError(
            f"{_BOUNDS} {length}; it is {bounds[:6]}" + ("..." if len(bounds) > 6 else "")
        )
    starts = [bound for bound in bounds[1:-1] if 0 < bound < length]
    mask = torch.zeros(1, length, dtype=torch.bool, device=u.device)
    mask[0, starts] = True
    return mask


_BOUNDS = "cu_seqlens should rise from 0 to the length"


def _rises(bounds: Sequence[int], length: int) -> bool:
    ends = bool(bounds) and bounds[0] == 0 and bounds[-1] == length
    return ends and sorted(bounds) == bounds


def _reset_unseen(cu_seqlens: Tensor, length: int) -> Tensor:
    """The mask where the bounds are not to be looked at now, as under `torch.compile`.

    Wrong ones raise RuntimeError when the compiled function runs.
    """
    if cu_seqlens.shape[0] == 0:
        raise InputError(f"{_BOUNDS} {length}; it is []")
    ends = (cu_seqlens[0] == 0) & (cu_seqlens[-1] == length)
    rises = ends & (cu_seqlens[1:] >= cu_seqlens[:-1]).all()
    torch._assert_async(rises, f"{_BOUNDS} of u")
    steps = torch.arange(length, device=cu_seqlens.device)
    return ((steps[:, None] == cu_seqlens).any(-1) & (steps > 0)).unsqueeze(0)

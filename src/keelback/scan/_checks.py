"""What the operands of a scan must look like, and the messages when they do not."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from keelback.compiled.checks import HALF, require_shape
from keelback.errors import InputError


def require_scan_shapes(
    u: torch.Size,
    delta: torch.Size,
    A: torch.Size,
    B: torch.Size,
    C: torch.Size,
    D: torch.Size | None,
    z: torch.Size | None,
    delta_bias: torch.Size | None,
    initial_state: torch.Size | None,
) -> None:
    """Raise unless operands of these shapes fit together in a scan."""
    _require_shapes(("batch", "length"), u, delta, A, B, C, D, z, delta_bias)
    if initial_state is not None:
        require_shape("initial_state", initial_state, (u[0], u[-1], A[1]))


def require_step_shapes(
    state: torch.Size,
    u: torch.Size,
    delta: torch.Size,
    A: torch.Size,
    B: torch.Size,
    C: torch.Size,
    D: torch.Size | None,
    z: torch.Size | None,
    delta_bias: torch.Size | None,
) -> None:
    """Raise unless operands of these shapes fit together in a step of the recurrence."""
    _require_shapes(("batch",), u, delta, A, B, C, D, z, delta_bias)
    require_shape("state", state, (u[0], u[-1], A[1]))


def _require_shapes(
    axes: tuple[str, ...],
    u: torch.Size,
    delta: torch.Size,
    A: torch.Size,
    B: torch.Size,
    C: torch.Size,
    D: torch.Size | None,
    z: torch.Size | None,
    delta_bias: torch.Size | None,
) -> None:
    """Of all operands but the state, where `axes` come before the channels of u."""
    require_shape("u", u, (*axes, "channels"))
    *rows, channels = u
    require_shape("A", A, (channels, "state"))
    state = A[1]
    require_shape("delta", delta, (*rows, channels), (*rows, 1))
    require_shape("B", B, (*rows, "groups", state))
    require_groups("B", B[-2], channels)
    require_shape("C", C, (*rows, B[-2], state))
    for name, x in (("D", D), ("delta_bias", delta_bias)):
        if x is not None:
            require_shape(name, x, (channels,))
    if z is not None:
        require_shape("z", z, (*rows, channels))


#: For shapes that come again and again; sizes that are symbols cannot be remembered.
require_scan_shapes_once = lru_cache(maxsize=1024)(require_scan_shapes)


def require_groups(name: str, groups: int, channels: int) -> None:
    """Raise unless the groups divide the channels."""
    if groups == 0 or channels % groups:
        raise InputError(
            f"{name} has {groups} groups; their number should divide that of channels, {channels}"
        )


def storing_dtype(sequences: Sequence[Tensor | None]) -> torch.dtype | None:
    """The half-precision dtype that all sequences share, for kernels that widen what they read.

    None if there is no such dtype, and if the step size is one for all channels: its gradient is a
    sum over the channels, which half precision would round term by term.
    """
    u, delta, *_ = sequences
    if u is None or delta is None or (delta.shape[-1] == 1 and u.shape[-1] > 1):
        return None
    dtypes = {x.dtype for x in sequences if x is not None}
    return dtypes.pop() if len(dtypes) == 1 and u.dtype in HALF else None


def reset_mask(
    reset: Tensor | None, cu_seqlens: Tensor | None, u: Tensor, batch: int, length: int
) -> Tensor | None:
    """The mask of the positions before which the state is zeroed, from either description of it."""
    if reset is not None:
        if cu_seqlens is not None:
            raise InputError("both reset and cu_seqlens are given; one of them should be")
        require_shape("reset", reset, (batch, length))
        if reset.dtype != torch.bool:
            raise InputError(f"reset has dtype {reset.dtype}; it should be torch.bool")
        if reset.device != u.device:
            raise InputError(f"reset is on {reset.device}; it should be on {u.device}, as u is")
        return reset
    if cu_seqlens is None:
        return None
    require_shape("cu_seqlens", cu_seqlens, ("sequences + 1",))
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise InputError(f"cu_seqlens has dtype {cu_seqlens.dtype}; it should be int32 or int64")
    if batch != 1:
        raise InputError(
            f"cu_seqlens is given for a batch of {batch}; packed sequences should form a batch of 1"
        )
    bounds = cu_seqlens.tolist()
    if not bounds or bounds[0] != 0 or bounds[-1] != length or sorted(bounds) != bounds:
        raise InputError(
            f"cu_seqlens should rise from 0 to the length {length}; it is {bounds[:6]}"
            + ("..." if len(bounds) > 6 else "")
        )
    starts = [bound for bound in bounds[1:-1] if 0 < bound < length]
    mask = torch.zeros(1, length, dtype=torch.bool, device=u.device)
    mask[0, starts] = True
    return mask

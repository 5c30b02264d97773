"""What the operands of a scan must look like, and the messages when they do not."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from keelback.compiled.checks import HALF, require_groups, require_shape


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

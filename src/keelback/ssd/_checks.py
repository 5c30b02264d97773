"""What the operands of a scan by heads must look like, and the messages when they do not."""

import math

import torch

from keelback.compiled.checks import require_groups, require_shape
from keelback.errors import InputError
from keelback.ssd.reference import DtLimit


def require_ssd_shapes(
    rows: tuple[str, ...],
    x: torch.Size,
    dt: torch.Size,
    A: torch.Size,
    B: torch.Size,
    C: torch.Size,
    D: torch.Size | None,
    z: torch.Size | None,
    dt_bias: torch.Size | None,
    states: torch.Size | None,
    name_of_states: str,
) -> None:
    """Raise unless operands of these shapes fit together; `rows` are the axes before the heads."""
    require_shape("x", x, (*rows, "heads", "head_dim"))
    *sizes, heads, head_dim = x
    require_shape("dt", dt, (*sizes, heads))
    require_shape("A", A, (heads,))
    require_shape("B", B, (*sizes, "groups", "state"))
    groups, state = B[-2:]
    require_groups("B", groups, heads, "heads")
    require_shape("C", C, (*sizes, groups, state))
    if D is not None:
        require_shape("D", D, (heads,), (heads, head_dim))
    if z is not None:
        require_shape("z", z, tuple(x))
    if dt_bias is not None:
        require_shape("dt_bias", dt_bias, (heads,))
    if states is not None:
        require_shape(name_of_states, states, (x[0], heads, head_dim, state))


def require_limits(dt_limit: DtLimit) -> None:
    """Raise unless the limits of the step size are two numbers in order."""
    low, high = dt_limit
    if math.isnan(low) or math.isnan(high) or low > high:
        raise InputError(f"dt_limit is {dt_limit}; it should be (lowest, highest) step size")

"""The two functions of the package mamba_ssm that models call, in its layout and names."""

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.checks import require_shape
from keelback.errors import InputError
from keelback.scan._api import selective_scan
from keelback.scan._op import step
from keelback.scan._operands import Operands
from keelback.ssd import _operands as ssd
from keelback.ssd._op import update_repeated

if TYPE_CHECKING:
    _ByHeads: TypeAlias = ssd.Operands[Tensor]
else:
    _ByHeads = Any  # beartype reads no generic named tuples.

_AXES_BY_HEADS = 4  # of the state
_AXES_OF_ONE_GROUP = 2  # of B and C


def selective_scan_fn(
    u: Float[Tensor, "batch channels length"],
    delta: Float[Tensor, "batch #channels length"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "channels state"]
    | Float[Tensor, "batch state length"]
    | Float[Tensor, "batch groups state length"],
    C: Float[Tensor, "channels state"]
    | Float[Tensor, "batch state length"]
    | Float[Tensor, "batch groups state length"],
    D: Float[Tensor, " channels"] | None = None,
    z: Float[Tensor, "batch channels length"] | None = None,
    delta_bias: Float[Tensor, " channels"] | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> (
    Float[Tensor, "batch channels length"]
    | tuple[Float[Tensor, "batch channels length"], Float[Tensor, "batch channels state"]]
):
    """`selective_scan` in the layout of `mamba_ssm.ops.selective_scan_interface.selective_scan_fn`.

    A model that imports that function can import this one instead. B and C may be the same at
    every position (channels, state), vary with it (batch, state, length), or vary by group of
    channels. A is real.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.

    Examples:
        >>> u, delta = torch.randn(2, 4, 50), torch.full((2, 4, 50), 0.1)
        >>> A, B, C = -torch.ones(4, 3), torch.randn(2, 3, 50), torch.randn(2, 3, 50)
        >>> selective_scan_fn(u, delta, A, B, C).shape  # batch, channels, length, as in mamba_ssm
        torch.Size([2, 4, 50])
    """
    require_shape("u", u, ("batch", "channels", "length"))
    batch, channels, length = u.shape
    if A.is_complex():
        raise InputError(f"A has dtype {A.dtype}; only real state matrices are supported")
    require_shape("A", A, (channels, "state"))
    require_shape("delta", delta, (batch, channels, length), (batch, 1, length))
    if z is not None:
        require_shape("z", z, (batch, channels, length))
    state = A.shape[1]
    for name, x in {"B": B, "C": C}.items():
        require_shape(
            name, x, (channels, state), (batch, state, length), (batch, "groups", state, length)
        )
    B, C = _with_groups(B, batch, length), _with_groups(C, batch, length)
    groups = max(B.shape[2], C.shape[2])
    y, last_state = selective_scan(
        u.mT,
        delta.mT,
        A,
        B.repeat_interleave(groups // B.shape[2], dim=2),
        C.repeat_interleave(groups // C.shape[2], dim=2),
        D,
        None if z is None else z.mT,
        delta_bias,
        delta_softplus,
        return_last_state=True,
    )
    return (y.mT, last_state) if return_last_state else y.mT


def _with_groups(x: Tensor, batch: int, length: int) -> Tensor:
    if x.ndim == 2:
        return x.expand(batch, length, *x.shape)
    if x.ndim == 3:
        return x.mT.unsqueeze(2)
    return x.movedim(-1, 1)


def selective_state_update(
    state: Float[Tensor, "batch channels state"] | Float[Tensor, "batch heads head_dim state"],
    x: Float[Tensor, "batch channels"] | Float[Tensor, "batch heads head_dim"],
    dt: Float[Tensor, "batch #channels"] | Float[Tensor, "batch heads head_dim"],
    A: Float[Tensor, "channels state"] | Float[Tensor, "heads head_dim state"],
    B: Float[Tensor, "batch state"] | Float[Tensor, "batch groups state"],
    C: Float[Tensor, "batch state"] | Float[Tensor, "batch groups state"],
    D: Float[Tensor, " channels"] | Float[Tensor, "heads head_dim"] | None = None,
    z: Float[Tensor, "batch channels"] | Float[Tensor, "batch heads head_dim"] | None = None,
    dt_bias: Float[Tensor, " channels"] | Float[Tensor, "heads head_dim"] | None = None,
    dt_softplus: bool = False,
) -> Float[Tensor, "batch channels"] | Float[Tensor, "batch heads head_dim"]:
    """`selective_scan_step` as `mamba_ssm`'s function of this name: it overwrites `state`.

    As that, it is for inference: no gradient goes through it. On a GPU `state`, `D` and `dt_bias`
    may be in the half precision of `x` too; they are computed with in float32. With heads it is
    Mamba-2's step, `keelback.ssd.ssd_step`, where `dt`, `A` and `dt_bias` are repeated for the
    numbers of a head, and `A` for its states, as by `expand`; otherwise that of a channel for each.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.

    Examples:
        >>> state, x, dt = torch.zeros(2, 4, 3), torch.randn(2, 4), torch.full((2, 4), 0.1)
        >>> A, B, C = -torch.ones(4, 3), torch.randn(2, 3), torch.randn(2, 3)
        >>> selective_state_update(state, x, dt, A, B, C).shape
        torch.Size([2, 4])
    """
    if torch.is_grad_enabled():
        with torch.no_grad():
            return selective_state_update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    if B.ndim == _AXES_OF_ONE_GROUP:
        B = B.unsqueeze(1)
    if C.ndim == _AXES_OF_ONE_GROUP:
        C = C.unsqueeze(1)
    if state.ndim == _AXES_BY_HEADS:
        return update_by_heads(ssd.Operands(x, dt, A, B, C, D, z, dt_bias, state), dt_softplus)
    y, _ = step(Operands(x, dt, A, B, C, D, z, dt_bias, state), dt_softplus, in_place=True)
    return y


def update_by_heads(operands: _ByHeads, dt_softplus: bool) -> Tensor:
    """Output of a step in place, of a Mamba-2 or of channels that are numbered by heads.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.
    """
    y = update_repeated(operands, (dt_softplus, -math.inf, math.inf))
    if y is not None:
        return y
    x, dt, A, B, C, D, z, dt_bias, state, _ = operands
    assert state is not None
    require_shape("state", state, (*x.shape, B.shape[-1]))
    if D is not None:
        require_shape("D", D, x.shape[1:2], x.shape[1:])
        D = (D.unsqueeze(-1) if D.ndim == 1 else D).expand(x.shape[1:]).flatten()
    if z is not None:
        require_shape("z", z, tuple(x.shape))
        z = z.flatten(1)
    flat = state.flatten(1, 2)
    bias = None if dt_bias is None else dt_bias.flatten()
    of_channels = Operands(x.flatten(1), dt.flatten(1), A.flatten(0, 1), B, C, D, z, bias, flat)
    y, _ = step(of_channels, dt_softplus, in_place=True)
    if flat.data_ptr() != state.data_ptr():
        state.copy_(flat.view(state.shape))
    return y.view(x.shape)

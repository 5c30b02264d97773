"""A stand-in for the package mamba_ssm: its selective scan and gated norm, run by keelback."""

import sys
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.conv import causal_conv1d
from keelback.integrations._mamba_ssm_norm import RMSNorm, rmsnorm_fn
from keelback.integrations._replacement import Replacement
from keelback.integrations._stand_in import Contents, replace_in_package, stand_in
from keelback.scan import mamba_inner, selective_state_update
from keelback.scan import selective_scan_fn as real_selective_scan_fn

_INTERFACE = "mamba_ssm.ops.selective_scan_interface"
_STATE_UPDATE = "mamba_ssm.ops.triton.selective_state_update"
_NORM = "mamba_ssm.ops.triton.layernorm_gated"


def provide_mamba_ssm() -> Replacement:
    """Let code that imports the scan from `mamba_ssm` get keelback's.

    `mamba_ssm.ops.selective_scan_interface` then has `selective_scan_fn`, `selective_scan_ref`,
    `mamba_inner_fn` and `mamba_inner_ref`, `mamba_ssm.ops.triton.selective_state_update` has
    `selective_state_update`, `mamba_ssm.ops.triton.layernorm_gated` has `rmsnorm_fn`, and the
    package itself `selective_scan_fn` and `mamba_inner_fn`. Where mamba_ssm is installed its
    functions are replaced, else modules of these names stand in for it, the last with a layer
    `RMSNorm` as well.
    Code that has imported the functions before the call keeps those that it has.

    Examples:
        >>> with provide_mamba_ssm():
        ...     from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
        >>> selective_scan_fn.__module__.split(".")[0]
        'keelback'
    """
    interface: dict[str, Any] = {
        "selective_scan_fn": selective_scan_fn,
        "selective_scan_ref": selective_scan_ref,
        "mamba_inner_fn": mamba_inner_fn,
        "mamba_inner_ref": mamba_inner_fn,
    }
    package = {name: interface[name] for name in ("selective_scan_fn", "mamba_inner_fn")}
    contents: Contents = {
        "mamba_ssm": package,
        "mamba_ssm.ops": {},
        _INTERFACE: interface,
        "mamba_ssm.ops.triton": {},
        _STATE_UPDATE: {"selective_state_update": selective_state_update},
        _NORM: {"rmsnorm_fn": rmsnorm_fn},
    }
    if "mamba_ssm" in sys.modules or find_spec("mamba_ssm") is not None:
        return replace_in_package(contents)  # Whose layer calls the function that is replaced.
    contents[_NORM]["RMSNorm"] = RMSNorm
    return stand_in(contents)


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The scan; a complex A, which keelback has no kernel for, is scanned by the definition."""
    scan = selective_scan_ref if A.is_complex() else real_selective_scan_fn
    return scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The definition, step by step in float32; a complex state stands for its conjugate too."""
    step = delta.float() if delta_bias is None else delta.float() + delta_bias.float()[:, None]
    if delta_softplus:
        step = F.softplus(step)
    value = u.float()
    B_, C_ = (_per_channel(x, u.shape[1], A.is_complex()) for x in (B, C))
    h = A.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for t in range(u.shape[2]):
        decay = torch.exp(step[:, :, t, None] * A)
        h = decay * h + (step[:, :, t] * value[:, :, t])[..., None] * _at(B_, t)
        outputs.append((h * _at(C_, t)).sum(-1))
    y = torch.stack(outputs, dim=2)
    if y.is_complex():
        y = 2 * y.real
    if D is not None:
        y = y + value * D.float()[:, None]
    if z is not None:
        y = y * F.silu(z.float())
    y = y.to(u.dtype)
    return (y, h) if return_last_state else y


def _per_channel(x: Tensor, channels: int, is_complex: bool) -> Tensor:
    """B or C as (batch or 1, channels or 1, state, length or 1)."""
    if x.ndim == 2:
        return x[None, :, :, None]
    x = x.unsqueeze(1) if x.ndim == 3 else x
    x = x.float()
    if is_complex:
        x = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return x.repeat_interleave(channels // x.shape[1], dim=1)


def _at(x: Tensor, t: int) -> Tensor:
    return x[..., t if x.shape[-1] > 1 else 0]


def mamba_inner_fn(
    xz: Tensor,
    conv1d_weight: Tensor,
    conv1d_bias: Tensor | None,
    x_proj_weight: Tensor,
    delta_proj_weight: Tensor,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    B_proj_bias: Tensor | None = None,
    C_proj_bias: Tensor | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Tensor | None = None,
    c_rms_weight: Tensor | None = None,
    dt_rms_weight: Tensor | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Tensor:
    """A Mamba layer between its projections.

    Convolution, the projections of delta, B and C (with a root-mean-square norm each, where its
    weight is given), the gated scan, and the output projection: xz (batch, 2 channels, length) in,
    (batch, length, d_model) out. `checkpoint_lvl` has no effect.
    """
    x, z = xz.chunk(2, dim=1)
    weight, norms = conv1d_weight.squeeze(1), (b_rms_weight, c_rms_weight, dt_rms_weight)
    usual = delta_softplus and not A.is_complex()
    if usual and all(one is None for one in (B, C, B_proj_bias, C_proj_bias, *norms)):
        bias, skip, step_bias = (
            weight.new_zeros(len(weight)) if one is None else one
            for one in (conv1d_bias, D, delta_bias)
        )
        maps = x_proj_weight, delta_proj_weight
        y = mamba_inner(x.mT, z.mT, weight, bias, *maps, A, skip, step_bias)
        return F.linear(y, out_proj_weight, out_proj_bias)
    u = causal_conv1d(x.mT, weight, conv1d_bias, "silu")
    assert isinstance(u, Tensor)
    rank = delta_proj_weight.shape[1]
    size = A.shape[1] * (2 if A.is_complex() else 1)
    projected = F.linear(u, x_proj_weight)
    dt = _normalised(projected[..., :rank], dt_rms_weight, b_c_dt_rms_eps)
    if B is None:
        B = projected[..., rank : rank + size] + (0 if B_proj_bias is None else B_proj_bias)
        B = _states_first(_normalised(B, b_rms_weight, b_c_dt_rms_eps), A.is_complex())
    if C is None:
        C = projected[..., -size:] + (0 if C_proj_bias is None else C_proj_bias)
        C = _states_first(_normalised(C, c_rms_weight, b_c_dt_rms_eps), A.is_complex())
    delta = F.linear(dt, delta_proj_weight).mT
    scanned = selective_scan_fn(u.mT, delta, A, B, C, D, z, delta_bias, delta_softplus)
    assert isinstance(scanned, Tensor)
    return F.linear(scanned.mT, out_proj_weight, out_proj_bias)


def _normalised(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return x if weight is None else F.rms_norm(x, (x.shape[-1],), weight, eps)


def _states_first(x: Tensor, is_complex: bool) -> Tensor:
    """(batch, length, state) as (batch, state, length); pairs of a complex state stay together."""
    if not is_complex:
        return x.mT
    return x.unflatten(-1, (-1, 2)).transpose(1, 2).flatten(2)

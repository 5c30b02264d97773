"""The gated norm of mamba_ssm under its own names, run by keelback."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from keelback.integrations._widths import in_one_width
from keelback.norm import gated_rms_norm


def rmsnorm_fn(
    x: Float[Tensor, "*rows channels"],
    weight: Float[Tensor, " channels"],
    bias: Float[Tensor, " channels"] | None,
    z: Float[Tensor, "*rows channels"] | None = None,
    eps: float = 1e-6,
    group_size: int | None = None,
    norm_before_gate: bool = True,
) -> Float[Tensor, "*rows channels"]:
    """`keelback.norm.gated_rms_norm`, and where there is a bias the sum with it before the gate."""
    dtype = x.dtype
    x, weight, bias, z = in_one_width(x, weight, bias, z)
    if bias is None:
        return gated_rms_norm(x, z, weight, eps, group_size, norm_before_gate).to(dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    first, last = (None, z) if norm_before_gate else (z, None)
    y = gated_rms_norm(x.to(wide), first, weight, eps, group_size) + bias.to(wide)
    return (y if last is None else y * F.silu(last.to(wide))).to(dtype)


class RMSNorm(nn.Module):
    """The norm as a layer, with the parameters of mamba_ssm's: a weight, and no bias."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.group_size, self.norm_before_gate = eps, group_size, norm_before_gate
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.bias: nn.Parameter | None
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to one."""
        nn.init.ones_(self.weight)

    def forward(
        self,
        x: Float[Tensor, "*rows channels"],
        z: Float[Tensor, "*rows channels"] | None = None,
    ) -> Float[Tensor, "*rows channels"]:
        """The norm of x, gated by z if it is given."""
        options = (self.eps, self.group_size, self.norm_before_gate)
        return rmsnorm_fn(x, self.weight, self.bias, z, *options)

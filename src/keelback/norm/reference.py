"""The gated root-mean-square norm in plain PyTorch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "sigmoid": torch.sigmoid,
}
"""What is taken of a gate before it multiplies."""


def gated_rms_norm_reference(
    x: Float[Tensor, "*rows channels"],
    gate: Float[Tensor, "*rows channels"] | None = None,
    weight: Float[Tensor, " channels"] | None = None,
    eps: float = 1e-5,
    group_size: int | None = None,
    norm_before_gate: bool = False,
    activation: str = "silu",
    round_before_weight: bool = False,
    promoted: bool = False,
) -> Float[Tensor, "*rows channels"]:
    """Norm of `x act(gate)`, or norm of x times `act(gate)`, in groups of channels.

    Differentiable by autograd any number of times; computed in float64 where x is, else in float32.
    See `keelback.norm.gated_rms_norm` for the arguments. Where `promoted` is set, the output has
    the wider dtype of x and the weight, as the product of both has.
    """
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    opened = None if gate is None else GATES[activation](gate.to(real))
    y = x.to(real)
    if opened is not None and not norm_before_gate:
        y = y * opened
    groups = y.unflatten(-1, (-1, group_size or x.shape[-1]))
    y = (groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + eps)).flatten(-2)
    if round_before_weight:
        y = y.to(x.dtype)
    if weight is not None:
        y = y * (weight if round_before_weight else weight.to(real))
    if opened is not None and norm_before_gate:
        y = y * opened
    if promoted and weight is not None:
        return y.to(torch.promote_types(x.dtype, weight.dtype))
    return y.to(x.dtype)

"""The inside of a Mamba block: convolution, projections and gated scan, as one step of autograd."""

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.checks import require_shape
from keelback.compiled.scripting import for_script
from keelback.compiled.watchers import needs_gradient, runs_eagerly
from keelback.conv._api import causal_conv1d
from keelback.conv._op import WIDEST
from keelback.scan._api import selective_scan
from keelback.scan._recomputed import InnerOperands, Recomputed, split_projection


def mamba_inner(
    x: Float[Tensor, "batch length channels"],
    z: Float[Tensor, "batch length channels"],
    conv_weight: Float[Tensor, "channels width"],
    conv_bias: Float[Tensor, " channels"],
    W_x: Float[Tensor, "rank_and_two_states channels"],
    W_delta: Float[Tensor, "channels rank"],
    A: Float[Tensor, "channels state"],
    D: Float[Tensor, " channels"],
    delta_bias: Float[Tensor, " channels"],
) -> Float[Tensor, "batch length channels"]:
    """What a Mamba block does between its projections in and out (arXiv 2312.00752, Figure 3).

        u = silu(conv(x))    (low, B, C) = W_x u    delta = softplus(W_delta low + delta_bias)
        y = selective_scan(u, delta, A, B, C, D) silu(z)

    The backward pass computes u and delta again instead of keeping them, which a convolution and a
    product of low rank take little time for: of the five tensors (batch, length, channels) that
    training keeps for a block, two go. Inside a transform of `torch.func`, under `torch.compile` or
    autocast, and where dtypes are half or mixed, they are kept.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.

    Examples:
        >>> x, z = torch.randn(1, 20, 8), torch.randn(1, 20, 8)
        >>> conv_weight, conv_bias = torch.randn(8, 4), torch.zeros(8)
        >>> W_x, W_delta, A = torch.randn(2 + 2 * 3, 8), torch.randn(8, 2), -torch.ones(8, 3)
        >>> D, delta_bias = torch.ones(8), torch.zeros(8)
        >>> mamba_inner(x, z, conv_weight, conv_bias, W_x, W_delta, A, D, delta_bias).shape
        torch.Size([1, 20, 8])
    """
    given = InnerOperands(x, z, conv_weight, conv_bias, W_x, W_delta, A, D, delta_bias)
    _require_shapes(given)
    if _recomputes(*given):
        y: Tensor = Recomputed.apply(*given)  # type: ignore[no-untyped-call]
        return y
    u = causal_conv1d(x, conv_weight, conv_bias, "silu")
    assert isinstance(u, Tensor)
    low_rank, B, C = split_projection(u @ W_x.mT, W_delta, A)
    y, _ = selective_scan(
        u,
        low_rank @ W_delta.mT,
        A,
        B.unsqueeze(-2),
        C.unsqueeze(-2),
        D,
        z,
        delta_bias,
        delta_softplus=True,
        return_last_state=True,
    )
    return y


def _require_shapes(given: InnerOperands) -> None:
    require_shape("x", given.x, ("batch", "length", "channels"))
    require_shape("z", given.z, tuple(given.x.shape))
    channels = given.x.shape[2]
    require_shape("conv_weight", given.conv_weight, (channels, "width"))
    require_shape("A", given.A, (channels, "state"))
    require_shape("W_delta", given.W_delta, (channels, "rank"))
    rank_and_states = given.W_delta.shape[1] + 2 * given.A.shape[1]
    require_shape("W_x", given.W_x, (rank_and_states, channels))
    for name in ("conv_bias", "D", "delta_bias"):
        require_shape(name, getattr(given, name), (channels,))


def _recomputes(*operands: Tensor) -> bool:
    """Whether there is a gradient to recompute for, and kernels take the operands as they are."""
    if not needs_gradient(*operands) or not runs_eagerly(*operands):
        return False
    x, _, conv_weight, *_ = operands
    if not 0 < conv_weight.shape[1] <= WIDEST:
        return False
    if torch.is_autocast_enabled(x.device.type):
        return False
    return x.dtype in (torch.float32, torch.float64) and all(
        (one.dtype, one.device) == (x.dtype, x.device) for one in operands
    )


for_script(
    "(Tensor x, Tensor z, Tensor conv_weight, Tensor conv_bias, Tensor W_x, Tensor W_delta, "
    "Tensor A, Tensor D, Tensor delta_bias) -> Tensor",
    mamba_inner,
)

"""The inside of a Mamba block: convolution, projections and gated scan, as one step of autograd."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.checks import require_shape
from keelback.compiled.watchers import is_transformed, needs_gradient
from keelback.conv._api import WIDEST, causal_conv1d
from keelback.conv._op import conv_gradients, run_conv
from keelback.scan._api import selective_scan
from keelback.scan.cpu import launch as _cpu


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
    """
    given = (x, z, conv_weight, conv_bias, W_x, W_delta, A, D, delta_bias)
    _require_shapes(*given)
    if _recomputes(*given):
        y: Tensor = _Inner.apply(*given)  # type: ignore[no-untyped-call]
        return y
    u = causal_conv1d(x, conv_weight, conv_bias, "silu")
    assert isinstance(u, Tensor)
    low_rank, B, C = _split(u @ W_x.mT, W_delta, A)
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


def _require_shapes(
    x: Tensor,
    z: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    W_x: Tensor,
    W_delta: Tensor,
    A: Tensor,
    D: Tensor,
    delta_bias: Tensor,
) -> None:
    require_shape("x", x, ("batch", "length", "channels"))
    require_shape("z", z, tuple(x.shape))
    channels = x.shape[2]
    require_shape("conv_weight", conv_weight, (channels, "width"))
    require_shape("A", A, (channels, "state"))
    require_shape("W_delta", W_delta, (channels, "rank"))
    require_shape("W_x", W_x, (W_delta.shape[1] + 2 * A.shape[1], channels))
    for name, one in (("conv_bias", conv_bias), ("D", D), ("delta_bias", delta_bias)):
        require_shape(name, one, (channels,))


def _split(projected: Tensor, W_delta: Tensor, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rank, state = W_delta.shape[1], A.shape[1]
    low_rank, B, C = torch.split(projected, [rank, state, state], dim=-1)
    return low_rank, B, C


def _recomputes(*operands: Tensor) -> bool:
    """Whether there is a gradient to recompute for, and kernels take the operands as they are."""
    if is_transformed() or not needs_gradient(*operands):
        return False
    x, _, conv_weight, *_ = operands
    if not 0 < conv_weight.shape[1] <= WIDEST or x.device.type not in ("cpu", "cuda"):
        return False
    if torch.is_autocast_enabled(x.device.type):
        return False
    return x.dtype in (torch.float32, torch.float64) and all(
        (one.dtype, one.device) == (x.dtype, x.device) for one in operands
    )


class _Inner(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Tensor) -> Tensor:
        x, z, conv_weight, conv_bias, W_x, W_delta, A, D, delta_bias = operands
        u = _convolved(x, conv_weight, conv_bias)
        projected = u @ W_x.mT
        y, checkpoints = _scan(u, projected, W_delta, A, D, z, delta_bias)
        ctx.save_for_backward(projected, checkpoints, *operands)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        projected, checkpoints, *operands = ctx.saved_tensors
        x, z, conv_weight, conv_bias, W_x, W_delta, A, D, delta_bias = operands
        u = _convolved(x, conv_weight, conv_bias)
        low_rank, _, _ = _split(projected, W_delta, A)
        du, ddelta, dA, dB, dC, dD, dz, dbias = _scan_gradients(
            dy, checkpoints, u, projected, W_delta, A, D, z, delta_bias
        )
        dprojected = torch.cat([ddelta @ W_delta, dB.squeeze(-2), dC.squeeze(-2)], dim=-1)
        dW_delta = ddelta.flatten(0, 1).mT @ low_rank.flatten(0, 1)
        del ddelta
        dW_x = dprojected.flatten(0, 1).mT @ u.flatten(0, 1)
        du.view(-1, du.shape[-1]).addmm_(dprojected.flatten(0, 1), W_x)
        dx, dweight, dconv_bias = (
            one.squeeze(0)
            for one in conv_gradients(*_replicated(du, x, conv_weight, conv_bias), True)
        )
        return dx, dz, dweight, dconv_bias, dW_x, dW_delta, dA, dD, dbias


def _replicated(*operands: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.unsqueeze(0) for x in operands]


def _convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return run_conv(*_replicated(x, weight, bias), True).squeeze(0)


def _scanned(
    u: Tensor, projected: Tensor, W_delta: Tensor, A: Tensor, D: Tensor, z: Tensor, bias: Tensor
) -> list[Tensor | None]:
    low_rank, B, C = _split(projected, W_delta, A)
    delta = low_rank @ W_delta.mT
    return [u, delta, A, B.unsqueeze(-2), C.unsqueeze(-2), D, z, bias, None, None]


def _scan(*given: Tensor) -> tuple[Tensor, Tensor]:
    operands: Any = _scanned(*given)
    if given[0].is_cuda:
        y, _, checkpoints = torch.ops.keelback.selective_scan(*_replicated(*operands), True, True)
        return y.squeeze(0), checkpoints
    operands += [True, True]
    y, _, checkpoints = _cpu.scan_forward(*operands)
    return y, checkpoints


def _scan_gradients(dy: Tensor, checkpoints: Tensor, *given: Tensor) -> list[Any]:
    """Of u, delta, A, B, C, D, z and the bias."""
    operands: Any = _scanned(*given)
    if not dy.is_cuda:
        arguments: Any = [dy, None, checkpoints, *operands, True]
        return list(_cpu.scan_gradients(*arguments)[:-1])
    backward: Any = torch.ops.keelback.selective_scan_backward
    *gradients, _ = backward(dy.unsqueeze(0), None, checkpoints, *_replicated(*operands), True)
    return [gradient.squeeze(0) for gradient in gradients]

"""`torch.ops.keelback.causal_conv1d`: the convolution as an operator for PyTorch's transforms.

As in `keelback::selective_scan`, every operand has a leading axis of replicas: x is (replicas,
batch, length, channels), weight (replicas, channels, width) and bias (replicas, channels).
"""

from typing import Any

import torch
from torch import Tensor

from keelback.compiled.replicas import fold
from keelback.compiled.watchers import inside_transform, runs_eagerly
from keelback.conv.cpu import launch as cpu
from keelback.conv.cuda import launch as cuda

_library = torch.library.Library("keelback", "FRAGMENT")
_library.define(
    "causal_conv1d(Tensor x, Tensor weight, Tensor bias, bool silu) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.define(
    "causal_conv1d_backward(Tensor dy, Tensor x, Tensor weight, Tensor bias, bool silu) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.impl("causal_conv1d", cpu.convolve, "CPU")
_library.impl("causal_conv1d_backward", cpu.correlate, "CPU")
_library.impl("causal_conv1d", cuda.convolve, "CUDA")
_library.impl("causal_conv1d_backward", cuda.correlate, "CUDA")

_FORWARD = "keelback::causal_conv1d"
_BACKWARD = "keelback::causal_conv1d_backward"


@torch.library.register_fake(_FORWARD, lib=_library)
def _fake_forward(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake(_BACKWARD, lib=_library)
def _fake_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


class CausalConv(torch.autograd.Function):
    """The operator, for callers that may be inside a `torch.func` transform."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return torch.ops.keelback.causal_conv1d(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *operands, ctx.silu = inputs
        ctx.save_for_backward(*operands)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        return (*conv_gradients(dy, *ctx.saved_tensors, ctx.silu), None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        size = info.batch_size
        y = run_conv(*(fold(x, dim, size) for x, dim in zip(arguments, in_dims, strict=True)))
        return y.unflatten(0, (size, -1)), 0


class CausalConvBackward(torch.autograd.Function):
    """The backward operator, which has no derivative of its own."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return torch.ops.keelback.causal_conv1d_backward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(
            "the compiled causal convolution has first derivatives only; for second derivatives "
            "call causal_conv1d(..., backend='reference')"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        size = info.batch_size
        folded = [fold(x, dim, size) for x, dim in zip(arguments, in_dims, strict=True)]
        return tuple(x.unflatten(0, (size, -1)) for x in conv_gradients(*folded)), (0, 0, 0)


class _EagerConv(torch.autograd.Function):
    """The CPU kernels without the detour through PyTorch's dispatcher."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        CausalConv.setup_context(ctx, arguments, arguments[0])
        return cpu.convolve(*arguments)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        return CausalConv.backward(ctx, dy)


def run_conv(*arguments: Any) -> Tensor:
    """Call `torch.ops.keelback.causal_conv1d` in the way that the caller's transforms need."""
    *operands, _ = arguments
    if runs_eagerly(*operands):
        if torch.is_grad_enabled() and any(x.requires_grad for x in operands):
            return _EagerConv.apply(*arguments)  # type: ignore[no-untyped-call]
        return cpu.convolve(*arguments)
    conv: Any = torch.ops.keelback.causal_conv1d
    return CausalConv.apply(*arguments) if inside_transform() else conv(*arguments)  # type: ignore[no-untyped-call]


def conv_gradients(*arguments: Any) -> tuple[Tensor, ...]:
    """Call `torch.ops.keelback.causal_conv1d_backward` in the same way."""
    conv: Any = torch.ops.keelback.causal_conv1d_backward
    return CausalConvBackward.apply(*arguments) if inside_transform() else conv(*arguments)  # type: ignore[no-untyped-call]


torch.library.register_autograd(
    _FORWARD, CausalConv.backward, setup_context=CausalConv.setup_context, lib=_library
)
torch.library.register_autograd(_BACKWARD, CausalConvBackward.backward, lib=_library)
torch.library.register_vmap(_FORWARD, CausalConv.vmap, lib=_library)
torch.library.register_vmap(_BACKWARD, CausalConvBackward.vmap, lib=_library)

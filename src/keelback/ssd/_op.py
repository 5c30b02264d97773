"""`torch.ops.keelback.ssd`: the scan by heads as an operator that PyTorch's transforms know.

`vmap` puts its axis among the heads, where each replica has its own A and its own groups; where no
parameter is mapped the forward pass puts it before the batch, without copying.

A device takes part by implementing `ssd` and `ssd_backward` for its dispatch key.
"""

from typing import Any

import torch
from torch import Tensor

from keelback.compiled.replicas import VmapInfo
from keelback.compiled.watchers import inside_transform
from keelback.ssd import cuda

_OPERANDS = (
    "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, "
    "Tensor? initial_states, Tensor? reset, bool dt_softplus, float dt_min, float dt_max"
)
_library = torch.library.Library("keelback", "FRAGMENT")
_library.define(
    f"ssd({_OPERANDS}) -> (Tensor y, Tensor last_states)", tags=torch.Tag.pt2_compliant_tag
)
_library.define(
    f"ssd_backward(Tensor? dy, Tensor? dlast_states, {_OPERANDS}) -> (Tensor dx, Tensor ddt, "
    "Tensor dA, Tensor dB, Tensor dC, Tensor dD, Tensor dz, Tensor ddt_bias, "
    "Tensor dinitial_states)",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.impl("ssd", cuda.ssd_forward, "CUDA")
_library.impl("ssd_backward", cuda.ssd_backward, "CUDA")

_FORWARD = "keelback::ssd"
_BACKWARD = "keelback::ssd_backward"
_DIFFERENTIABLE = 9
#: Where the heads, or groups, are among the axes of x, dt, ..., reset; reset has none.
_AXES_OF_HEADS: tuple[int | None, ...] = (2, 2, 0, 2, 2, 0, 2, 0, 1, None)
#: The operands that have no axis of the batch: A, D, dt_bias.
_PARAMETERS = (2, 5, 7)
_RESET = 9


@torch.library.register_fake(_FORWARD, lib=_library)
def _fake_forward(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    batch, _, heads, head_dim = x.shape
    return x.new_empty(x.shape), A.new_empty((batch, heads, head_dim, B.shape[-1]))


@torch.library.register_fake(_BACKWARD, lib=_library)
def _fake_backward(dy: Tensor | None, dlast: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    operands = rest[:_DIFFERENTIABLE]
    x = operands[0]
    return tuple(
        x.new_empty((0,)) if one is None else one.new_empty(one.shape) for one in operands
    )


def _into_heads(x: Any, dim: int | None, size: int, axis: int | None) -> Any:
    """Join the mapped axis, or `size` repeats, with the heads of an operand."""
    if not isinstance(x, Tensor) or axis is None:
        return x
    x = x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.movedim(0, axis).flatten(axis, axis + 1)


def _out_of_heads(x: Tensor, size: int, axis: int) -> Tensor:
    return x.unflatten(axis, (size, x.shape[axis] // size)).movedim(axis, 0)


def _into_batch(x: Any, dim: int | None, size: int, parameter: bool) -> Any:
    if not isinstance(x, Tensor) or parameter:
        return x
    x = x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def _require_shared_reset(dim: int | None) -> None:
    if dim is not None:
        raise NotImplementedError(
            "vmap over reset together with A, D or dt_bias, or over its gradient, is not supported "
            "by the compiled scan by heads; call ssd(..., backend='reference')"
        )


class Ssd(torch.autograd.Function):
    """The operator, for callers that may be inside a `torch.func` transform."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return torch.ops.keelback.ssd(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *operands, dt_softplus, dt_min, dt_max = inputs
        ctx.save_for_backward(*operands)
        ctx.settings = (dt_softplus, dt_min, dt_max)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        operands = ctx.saved_tensors
        if all(gradient is None for gradient in gradients):
            return (None,) * (len(operands) + len(ctx.settings))
        computed = run_ssd_backward(*gradients, *operands, *ctx.settings)
        kept = (
            None if x is None else gradient
            for x, gradient in zip(operands[:_DIFFERENTIABLE], computed, strict=True)
        )
        return (*kept, None, None, None, None)

    @staticmethod
    def vmap(info: VmapInfo, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        size, dims = info.batch_size, (*in_dims, None, None, None)
        if all(in_dims[i] is None for i in _PARAMETERS):
            folded = [
                _into_batch(x, dim, size, i in _PARAMETERS)
                for i, (x, dim) in enumerate(zip(arguments, dims, strict=False))
            ]
            y, last = run_ssd(*folded)
            return (y.unflatten(0, (size, -1)), last.unflatten(0, (size, -1))), (0, 0)
        _require_shared_reset(in_dims[_RESET])
        axes = (*_AXES_OF_HEADS, None, None, None)
        folded = [
            _into_heads(x, dim, size, axis)
            for x, dim, axis in zip(arguments, dims, axes, strict=False)
        ]
        y, last = run_ssd(*folded)
        return (_out_of_heads(y, size, 2), _out_of_heads(last, size, 1)), (0, 0)


class SsdBackward(torch.autograd.Function):
    """The backward operator, which has no derivative of its own."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return torch.ops.keelback.ssd_backward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(
            "the compiled scan by heads has first derivatives only; "
            "for second derivatives call ssd(..., backend='reference')"
        )

    @staticmethod
    def vmap(info: VmapInfo, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        size = info.batch_size
        _require_shared_reset(in_dims[2 + _RESET])
        axes = (2, 1, *_AXES_OF_HEADS, None, None, None)
        folded = [
            _into_heads(x, dim, size, axis)
            for x, dim, axis in zip(arguments, in_dims, axes, strict=True)
        ]
        gradients = run_ssd_backward(*folded)
        present = [x is not None for x in arguments[2:][:_DIFFERENTIABLE]]
        unfolded = tuple(
            _out_of_heads(x, size, axis) if here and axis is not None else x
            for x, here, axis in zip(gradients, present, _AXES_OF_HEADS, strict=False)
        )
        return unfolded, tuple(0 if here else None for here in present)


def run_ssd(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Call `torch.ops.keelback.ssd` in the way that the caller's transforms need."""
    scan: Any = torch.ops.keelback.ssd
    return Ssd.apply(*arguments) if inside_transform() else scan(*arguments)  # type: ignore[no-untyped-call]


def run_ssd_backward(*arguments: Any) -> tuple[Tensor, ...]:
    """Call `torch.ops.keelback.ssd_backward` in the same way."""
    scan: Any = torch.ops.keelback.ssd_backward
    return SsdBackward.apply(*arguments) if inside_transform() else scan(*arguments)  # type: ignore[no-untyped-call]


torch.library.register_autograd(
    _FORWARD, Ssd.backward, setup_context=Ssd.setup_context, lib=_library
)
torch.library.register_autograd(_BACKWARD, SsdBackward.backward, lib=_library)
torch.library.register_vmap(_FORWARD, Ssd.vmap, lib=_library)
torch.library.register_vmap(_BACKWARD, SsdBackward.vmap, lib=_library)

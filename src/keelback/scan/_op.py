"""`torch.ops.keelback.selective_scan`: the scan as an operator that PyTorch's transforms know.

Every operand has a leading axis of replicas: A is (replicas, channels, state), u is (replicas,
batch, length, channels), and so on; the rows of replica r meet the parameters of replica r.
`vmap` puts its axis there without copying: an operand that is not mapped is repeated with stride
zero. Many small models with stacked parameters thus run as one scan.

A device takes part by implementing `selective_scan` and `selective_scan_backward` for its
dispatch key.
"""

from typing import Any

import torch
from torch import Tensor

from keelback.compiled.replicas import VmapInfo, fold, unfold
from keelback.compiled.watchers import inside_transform
from keelback.scan import cuda as _cuda
from keelback.scan.cpu import launch as _cpu
from keelback.scan.cpu.plan import Plan

_library = torch.library.Library("keelback", "FRAGMENT")
_library.define(
    "selective_scan(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? delta_bias, Tensor? initial_state, Tensor? reset, bool delta_softplus, "
    "bool keep_checkpoints) -> (Tensor y, Tensor last_state, Tensor checkpoints)",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.define(
    "selective_scan_backward(Tensor? dy, Tensor? dlast_state, Tensor checkpoints, Tensor u, "
    "Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state, Tensor? reset, bool delta_softplus) -> (Tensor du, Tensor ddelta, "
    "Tensor dA, Tensor dB, Tensor dC, Tensor dD, Tensor dz, Tensor ddelta_bias, "
    "Tensor dinitial_state)",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.impl("selective_scan", _cpu.scan_forward, "CPU")
_library.impl("selective_scan_backward", _cpu.scan_backward, "CPU")
_library.impl("selective_scan", _cuda.scan_forward, "CUDA")
_library.impl("selective_scan_backward", _cuda.scan_backward, "CUDA")

_FORWARD = "keelback::selective_scan"
_BACKWARD = "keelback::selective_scan_backward"
# Position of the first operand among the arguments of the backward operator, after dy, dlast_state
# and checkpoints; and the number of operands that have a gradient.
_FIRST_OPERAND = 3
_DIFFERENTIABLE = 9


@torch.library.register_fake(_FORWARD, lib=_library)
def _fake_forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    keep_checkpoints = rest[-1] and not u.is_cuda
    return (
        u.new_empty(u.shape),
        A.new_empty(u.shape[:2] + A.shape[1:]),
        u.new_empty(Plan.of(u, A, B).checkpoint_shape(keep_checkpoints)),
    )


@torch.library.register_fake(_BACKWARD, lib=_library)
def _fake_backward(*arguments: Any) -> tuple[Tensor, ...]:
    operands = arguments[_FIRST_OPERAND:][:_DIFFERENTIABLE]
    u = operands[0]
    return tuple(u.new_empty((0,)) if x is None else x.new_empty(x.shape) for x in operands)


class SelectiveScan(torch.autograd.Function):
    """The operator, for callers that may be inside a `torch.func` transform.

    Operators with a formula from `torch.library.register_autograd` are not differentiable there;
    functions of this kind are.
    """

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return torch.ops.keelback.selective_scan(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *operands, delta_softplus, _ = inputs
        checkpoints = output[2]
        ctx.mark_non_differentiable(checkpoints)
        ctx.save_for_backward(checkpoints, *operands)
        ctx.delta_softplus = delta_softplus
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        dy, dlast_state, _ = gradients
        checkpoints, *operands = ctx.saved_tensors
        if dy is None and dlast_state is None:
            return (None,) * (len(operands) + 2)
        if checkpoints.shape[-3] == 0 and not checkpoints.is_cuda:
            checkpoints = run_scan(*operands, ctx.delta_softplus, True)[2]
        computed = run_scan_backward(dy, dlast_state, checkpoints, *operands, ctx.delta_softplus)
        kept = (
            None if x is None else gradient
            for x, gradient in zip(operands[:_DIFFERENTIABLE], computed, strict=True)
        )
        return (*kept, None, None, None)

    @staticmethod
    def vmap(info: VmapInfo, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        size = info.batch_size
        folded = [fold(x, dim, size) for x, dim in zip(arguments, in_dims, strict=True)]
        outputs = run_scan(*folded)
        return tuple(unfold(x, size) for x in outputs), (0, 0, 0)


class SelectiveScanBackward(torch.autograd.Function):
    """The backward operator, which has no derivative of its own."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return torch.ops.keelback.selective_scan_backward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(
            "the compiled selective scan has first derivatives only; "
            "for second derivatives call selective_scan(..., backend='reference')"
        )

    @staticmethod
    def vmap(info: VmapInfo, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        size = info.batch_size
        folded = [fold(x, dim, size) for x, dim in zip(arguments, in_dims, strict=True)]
        gradients = run_scan_backward(*folded)
        present = [x is not None for x in arguments[_FIRST_OPERAND:][:_DIFFERENTIABLE]]
        return (
            tuple(
                unfold(x, size) if here else x for x, here in zip(gradients, present, strict=True)
            ),
            tuple(0 if here else None for here in present),
        )


def run_scan(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Call `torch.ops.keelback.selective_scan` in the way that the caller's transforms need."""
    scan: Any = torch.ops.keelback.selective_scan
    return SelectiveScan.apply(*arguments) if inside_transform() else scan(*arguments)  # type: ignore[no-untyped-call]


def run_scan_backward(*arguments: Any) -> tuple[Tensor, ...]:
    """Call `torch.ops.keelback.selective_scan_backward` in the same way."""
    scan: Any = torch.ops.keelback.selective_scan_backward
    return SelectiveScanBackward.apply(*arguments) if inside_transform() else scan(*arguments)  # type: ignore[no-untyped-call]


torch.library.register_autograd(
    _FORWARD, SelectiveScan.backward, setup_context=SelectiveScan.setup_context, lib=_library
)
torch.library.register_autograd(_BACKWARD, SelectiveScanBackward.backward, lib=_library)
torch.library.register_vmap(_FORWARD, SelectiveScan.vmap, lib=_library)
torch.library.register_vmap(_BACKWARD, SelectiveScanBackward.vmap, lib=_library)

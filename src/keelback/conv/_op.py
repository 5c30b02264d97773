"""`torch.ops.keelback.causal_conv1d`, and the way of a convolution to its backend."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.compiled.backends import choose_backend
from keelback.compiled.calls import Calls, Steps
from keelback.compiled.checks import computing_dtype, require_shape, require_tensor
from keelback.compiled.layouts import Signature, layouts_of
from keelback.compiled.operator import Operator
from keelback.compiled.watchers import without_autocast
from keelback.conv import cpu, cuda
from keelback.conv._operands import ConvOperands, require_weight
from keelback.conv.reference import causal_conv1d_reference
from keelback.errors import InputError

WIDEST = 32
"""Taps for which there are kernels; with more the convolution is PyTorch's."""

BACKENDS: Any = {"cpu": cpu, "cuda": cuda}

CONV = Operator(
    "causal_conv1d",
    differentiable=("x", "weight", "bias?"),
    options=("silu",),
    outputs=("y",),
    backends=BACKENDS,
    fake=lambda x, *_: (x.new_empty(x.shape),),
)


def _chosen(given: ConvOperands[Any], backend: str | None) -> tuple[Any, ConvOperands[Any]]:
    """The backend for these operands, or None for the reference, and the dtypes that it takes."""
    x, weight, bias = given
    require_tensor("x", x)
    require_shape("x", x.shape, ("batch", "length", "channels"))
    require_weight(weight, bias, x.shape[2])
    computing = computing_dtype({"x": x, "weight": weight, "bias": bias})
    chosen = choose_backend(backend, x.device, BACKENDS, "x")
    if chosen is None or weight.shape[1] > WIDEST:
        return None, ConvOperands(computing, computing, computing)
    if chosen.WIDENS:
        return chosen, ConvOperands(x.dtype, weight.dtype, None if bias is None else bias.dtype)
    return chosen, ConvOperands(computing, computing, computing)


def _defined(operands: ConvOperands[Tensor], silu: bool) -> tuple[Tensor]:
    return (causal_conv1d_reference(*operands, silu),)


_CALLS = Calls(CONV, ConvOperands, _chosen, _defined)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    backend: str | None = None,
) -> Tensor:
    """The convolution of x alone, in its dtype.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.
    """
    (y,) = _CALLS(ConvOperands(x, weight, bias), (silu,), backend)
    return y.to(x.dtype)


def advance(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """The output of one step or a few, whose inputs enter the state.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.
    """
    given = (x, state, weight, bias)
    call = _STEPS.find(given, silu)
    if call is not None:
        advanced: Tensor = call.run(x, state, weight, bias)
        return advanced
    dtype = _required_of_step(*given)
    batch, channels = x.shape[:2]
    steps, past, width = x.shape[2:].numel(), state.shape[2], weight.shape[1]
    new = x.reshape(batch, channels, steps)
    stored = torch.promote_types(x.dtype, state.dtype)
    recent = torch.cat([state.to(stored), new.to(stored)], dim=-1)
    with torch.no_grad():
        state.copy_(recent[..., steps:])
    if steps == 1:
        with without_autocast(x.device):
            y = (recent[..., past + 1 - width :].to(dtype) * weight.to(dtype)).sum(-1)
            y = y if bias is None else y + bias.to(dtype)
            y = F.silu(y) if silu else y
    else:
        y = convolve(recent.mT, weight, bias, silu).mT[..., past:]
    return y.reshape(x.shape).to(x.dtype)


def _step_by_kernel(signature: Signature, silu: bool) -> cuda.CudaConvStep | None:
    """The step over x, state, weight and bias of this signature, if a kernel takes it."""
    given: Any = layouts_of(signature)
    _required_of_step(*given)
    x = given[0]
    if x.device.type != "cuda" or x.shape[2:].numel() != 1:
        return None
    return cuda.prepare_step(given, silu)


_STEPS = Steps(_step_by_kernel)


def _required_of_step(x: Any, state: Any, weight: Any, bias: Any) -> torch.dtype:
    """The dtype to compute in, of operands that fit together, or of what is known of them.

    Raises:
        InputError: They do not.
    """
    require_shape("x", x.shape, ("batch", "channels"), ("batch", "channels", "length"))
    batch, channels = x.shape[:2]
    require_weight(weight, bias, channels)
    require_shape("state", state.shape, (batch, channels, "past"))
    past, width = state.shape[2], weight.shape[1]
    if past < width - 1:
        raise InputError(f"state holds {past} steps; it should hold {width - 1} or more")
    return computing_dtype({"x": x, "state": state, "weight": weight, "bias": bias})

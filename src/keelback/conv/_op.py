"""`torch.ops.keelback.causal_conv1d`, and the way of a convolution to its backend."""

from typing import Any

from torch import Tensor

from keelback.compiled.backends import choose_backend
from keelback.compiled.checks import computing_dtype
from keelback.compiled.operator import Operator
from keelback.compiled.watchers import without_autocast
from keelback.conv import cpu, cuda
from keelback.conv._operands import ConvOperands
from keelback.conv.reference import causal_conv1d_reference

WIDEST = 32
"""Taps for which there are kernels; with more the convolution is PyTorch's."""

BACKENDS: Any = {"cpu": cpu, "cuda": cuda}

CONV = Operator(
    "causal_conv1d",
    differentiable=ConvOperands._fields,
    options=("silu",),
    outputs=("y",),
    backends=BACKENDS,
    fake=lambda x, *_: (x.new_empty(x.shape),),
)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """The convolution of x alone; of `initial_state` only the dtype counts here.

    Raises:
        InputError: A dtype or device is wrong, or the backend is not for it.
    """
    given = {"x": x, "weight": weight, "bias": bias, "initial_state": initial_state}
    dtype = computing_dtype(given)
    chosen = choose_backend(backend, x.device, BACKENDS)
    weight = weight.to(dtype)
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias.to(dtype)
    if chosen is None or weight.shape[1] > WIDEST:
        with without_autocast(x.device):
            y = causal_conv1d_reference(x.to(dtype), weight, bias, silu)
    else:
        stored = x if chosen.WIDENS else x.to(dtype)
        (y,) = CONV((stored, weight, bias), silu)
    return y.to(x.dtype)

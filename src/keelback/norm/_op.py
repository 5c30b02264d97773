"""`torch.ops.keelback.gated_rms_norm`, and the way of a norm to its backend."""

from typing import Any

import torch
from torch import Tensor

from keelback.compiled.backends import choose_backend
from keelback.compiled.calls import Calls
from keelback.compiled.checks import HALF, computing_dtype
from keelback.compiled.operator import Operator
from keelback.norm import cpu, cuda
from keelback.norm._operands import (
    OPTIONS,
    NormOperands,
    NormOptions,
    output_dtype,
    require_norm,
)
from keelback.norm.reference import gated_rms_norm_reference

WIDEST = 16384
"""Channels of a group for which there are kernels; with more the norm is PyTorch's."""

BACKENDS: Any = {"cpu": cpu, "cuda": cuda}


def _shapes(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Of the output, and of what is kept: one over the root mean square of each group."""
    given: NormOperands[Tensor] = NormOperands(*arguments[:3])
    options, keep, x = NormOptions(*arguments[3:-1]), arguments[-1], given.x
    y = x.new_empty(x.shape, dtype=output_dtype(given, options))
    real = torch.float64 if x.dtype == torch.float64 else torch.float32
    *rows, channels = x.shape
    groups = channels // options.group_of(channels)
    return y, x.new_empty((*rows, groups) if keep else (x.shape[0], 0), dtype=real)


NORM = Operator(
    "gated_rms_norm",
    differentiable=("x", "gate?", "weight?"),
    options=OPTIONS,
    outputs=("y",),
    kept=("scales",),
    backends=BACKENDS,
    fake=_shapes,
)


def _chosen(given: NormOperands[Any], backend: str | None) -> tuple[Any, NormOperands[Any]]:
    """The backend for these operands, or None for the reference, and the dtypes that it takes.

    On a CPU half precision is for the reference: the kernels there do not round in between.
    """
    require_norm(given)
    # PyTorch 2.8's compiler does not know `_asdict`.
    computing = computing_dtype(dict(zip(NormOperands._fields, given, strict=True)))
    chosen = choose_backend(backend, given.x.device, BACKENDS, "x")
    if chosen is cpu and given.x.dtype in HALF:
        chosen = None
    own = chosen is None or chosen.WIDENS
    wanted = [computing if x is None or not own else x.dtype for x in given]
    return chosen, NormOperands(*wanted)


def _defined(operands: NormOperands[Tensor], *options: Any) -> tuple[Tensor]:
    given = NormOptions(*options)
    y = gated_rms_norm_reference(
        *operands,
        given.epsilon,
        given.group_size or None,
        given.norm_before_gate,
        "sigmoid" if given.sigmoid else "silu",
        given.rounded,
        given.promoted,
    )
    return (y,)


_CALLS = Calls(NORM, NormOperands, _chosen, _defined)


def normalise(
    operands: NormOperands[Tensor], options: NormOptions, backend: str | None = None
) -> Tensor:
    """The norm, in the dtype of x or, where it is to be promoted, of its product with the weight.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.
    """
    x: Any = operands.x
    if backend is None and x.ndim and options.group_of(x.shape[-1]) > WIDEST:
        backend = "reference"
    (y,) = _CALLS(operands, options, backend)
    return y

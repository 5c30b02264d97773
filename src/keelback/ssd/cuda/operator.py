"""`torch.ops.keelback.ssd` and its backward for tensors on an NVIDIA GPU."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.compiled.cuda_driver import processors_of
from keelback.errors import JobError
from keelback.ssd.cuda.backward import run_backward
from keelback.ssd.cuda.forward import run_forward
from keelback.ssd.cuda.operands import PIECE, Operands, Shape, aligned, padded_to_pieces
from keelback.ssd.cuda.plan import Card, Traits, backward_plan, forward_plan

WIDEST = 256
"""Numbers of a head, and states, for which there are kernels."""


@cache
def card_of(device: torch.device) -> Card:
    """What a plan needs to know of a GPU."""
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", 96 << 10)
    wide = (properties.major, properties.minor) == (9, 0)
    return Card(processors_of(device), shared, wide)


def has_kernels(x: Tensor, B: Tensor) -> bool:
    """Whether there are kernels for these operands on their GPU.

    There are none for float64, for GPUs without matrix units for bfloat16, and where a block's
    shared memory is too small for a chunk.
    """
    heads, groups = x.shape[2], B.shape[2]
    sizes_fit = x.shape[-1] <= WIDEST and B.shape[-1] <= WIDEST
    if x.dtype == torch.float64 or not sizes_fit:
        return False
    if torch.cuda.get_device_capability(x.device) < (8, 0):
        return False
    of_group = Shape(1, 1, heads // groups, x.shape[-1], 1, B.shape[-1])
    return _fits(of_group, x.dtype, planes_of(x.dtype), card_of(x.device))


@cache
def _fits(shape: Shape, dtype: torch.dtype, planes: int, card: Card) -> bool:
    traits = Traits(dtype, dtype, planes, False, True, True, True, False)
    try:
        forward_plan(shape, traits, card)
        backward_plan(shape, traits, card)
    except JobError:
        return False
    return True


def planes_of(dtype: torch.dtype) -> int:
    """Numbers of sixteen bits for each: for float32 all that matter, or two where TF32 is allowed."""
    if dtype != torch.float32:
        return 1
    return 2 if torch.backends.cuda.matmul.allow_tf32 else 3


def traits_of(given: Operands) -> Traits:
    """What a plan depends on."""
    return Traits(
        dtype=given.x.dtype,
        step_dtype=given.dt.dtype,
        planes=planes_of(given.x.dtype),
        softplus=given.dt_softplus,
        has_reset=given.reset is not None,
        has_z=given.z is not None,
        skip_per_number=given.skip_per_number,
        signed=given.dt_limit[0] < 0 and not given.dt_softplus,
    )


def _prepared(given: Operands) -> Operands:
    return aligned(padded_to_pieces(given) if given.padded else given)


def ssd_forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Output and last state; the arguments are those of `torch.ops.keelback.ssd`."""
    *tensors, dt_softplus, dt_min, dt_max = arguments
    given = Operands(*tensors, dt_softplus, (dt_min, dt_max))
    shape = given.shape
    if given.empty:
        last = given.A.new_zeros(shape.batch, shape.heads, shape.head_dim, shape.states)
        if given.initial_states is not None:
            last.copy_(given.initial_states)
        return torch.empty_like(given.x), last
    prepared = _prepared(given)
    plan = forward_plan(prepared.shape, traits_of(prepared), card_of(given.device))
    y, last = run_forward(prepared, plan)
    if given.padded:
        y = y[..., : shape.head_dim].contiguous()
        last = last[..., : shape.head_dim, : shape.states].contiguous()
    return y, last


def ssd_backward(dy: Tensor | None, dlast: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    """The gradients of x, dt, A, B, C, D, z, dt_bias, initial_states; empty where absent."""
    *tensors, dt_softplus, dt_min, dt_max = arguments
    given = Operands(*tensors, dt_softplus, (dt_min, dt_max))
    differentiable = tensors[:9]
    gradients: list[Tensor | None]
    if given.empty:
        gradients = [None if x is None else torch.zeros_like(x) for x in differentiable]
        if given.initial_states is not None and dlast is not None:
            gradients[-1] = dlast.clone()
    else:
        gradients = _gradients(given, dy, dlast)
    absent = (given.x.new_empty((0,)) for _ in differentiable)
    return tuple(
        empty if x is None or gradient is None else gradient
        for x, gradient, empty in zip(differentiable, gradients, absent, strict=True)
    )


def _gradients(given: Operands, dy: Tensor | None, dlast: Tensor | None) -> list[Tensor | None]:
    shape, prepared = given.shape, _prepared(given)
    dy = torch.zeros_like(given.x) if dy is None else dy
    if given.padded:
        numbers, states = (-size % PIECE for size in (shape.head_dim, shape.states))
        dy = F.pad(dy, (0, numbers))
        dlast = None if dlast is None else F.pad(dlast, (0, states, 0, numbers))
    if dlast is not None:
        dlast = dlast.contiguous()
    plan = backward_plan(prepared.shape, traits_of(prepared), card_of(given.device))
    found = run_backward(prepared, dy, dlast, plan)
    if not given.padded:
        return [*found]
    whole = (given.x, None, None, given.B, given.C, given.D, given.z, None, given.initial_states)
    return [
        gradient if x is None or gradient is None else gradient[tuple(map(slice, x.shape))]
        for gradient, x in zip(found, whole, strict=True)
    ]

"""The GPU backend: plans the launches of a scan by heads, and hands tensors to the kernels."""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.compiled.backends import Prepared
from keelback.compiled.cuda_card import Card, card_of, planes_of
from keelback.compiled.cuda_operands import layout_of, piecewise
from keelback.compiled.layouts import Layout, Signature, layouts_of
from keelback.errors import JobError
from keelback.ssd._operands import Operands, Options, SsdSizes
from keelback.ssd._replicas import Replicated
from keelback.ssd.chunked import ChunkedSsd
from keelback.ssd.cuda.backward import BackwardPass
from keelback.ssd.cuda.forward import ForwardPass
from keelback.ssd.cuda.plan import Traits, backward_plan, forward_plan
from keelback.ssd.cuda.signature import CudaSignature

WIDEST = 256
"""Numbers of a head, and states, for which there are kernels."""
_AXES = 4  # of x without replicas
#: Backward passes kept for each signature: gradients of an output come with few kinds of strides.
_PASSES = 16


class CudaSsd(CudaSignature):
    """The scans of one signature; see `keelback.compiled.backends.Prepared`."""

    def __init__(self, given: Operands[Layout], options: Options) -> None:
        super().__init__(given, options)
        self._forward: dict[int, ForwardPass] = {}
        self._backward: dict[Any, BackwardPass] = {}

    def traits(self, planes: int) -> Traits:
        """What plans depend on beside the sizes."""
        given = self.given
        return Traits(
            dtype=given.x.dtype,
            step_dtype=given.dt.dtype,
            planes=planes,
            softplus=self.softplus,
            has_reset=given.reset is not None,
            has_z=given.z is not None,
            skip_per_number=self.skip_per_number,
            signed=self.limits[0] < 0 and not self.softplus,
        )

    def forward(self, operands: Sequence[Tensor | None], keep: bool) -> tuple[Tensor, Tensor]:
        """Output and last states; the backward pass computes the states again that it wants."""
        given, asked = self.taken(operands), self.asked
        planes = planes_of(self.given.x.dtype)
        found = self._forward.get(planes)
        if found is None:
            plan = forward_plan(self.sizes, self.traits(planes), card_of(self.device))
            found = self._forward[planes] = ForwardPass(self, plan)
        y, last = found.run(given)
        if self.padded:
            y = y[..., : asked.head_dim].contiguous()
            last = last[..., : asked.head_dim, : asked.states].contiguous()
        return y, last

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the differentiable operands."""
        given = self.taken(operands)
        dy, dlast = gradients
        dy = torch.zeros_like(given.x) if dy is None else self._piecewise(dy)
        if dlast is not None:
            lacking = self.lacking("initial_states", dlast.ndim)
            dlast = F.pad(dlast, lacking) if any(lacking) else dlast.contiguous()
        found = self.backward_pass(dy, dlast is not None).run(given, dy, dlast)
        if not self.padded:
            return found.differentiable
        return tuple(
            None if gradient is None else gradient[tuple(map(slice, x.shape))].contiguous()  # type: ignore[union-attr]
            for x, gradient in zip(operands[:-1], found.differentiable, strict=True)
        )

    def backward_pass(self, dy: Tensor, ends: bool) -> BackwardPass:
        """The pass for gradients of the output that lie like this one, and of the last states."""
        planes = planes_of(self.given.x.dtype)
        key = (planes, dy.stride(), ends)
        found = self._backward.get(key)
        if found is None:
            plan = backward_plan(self.sizes, self.traits(planes), card_of(self.device))
            found = BackwardPass(self, plan, layout_of(dy), ends)
            if len(self._backward) < _PASSES:
                self._backward[key] = found
        return found

    def _piecewise(self, dy: Tensor) -> Tensor:
        """A gradient of the output as the kernels read it."""
        lacking = self.lacking("x", dy.ndim)
        if any(lacking):
            return F.pad(dy, lacking)
        return piecewise(dy)


def has_kernels(given: Operands[Layout], card: Card) -> bool:
    """Whether there are kernels for these operands on their GPU.

    There are none for float64, for GPUs without matrix units for bfloat16, and where a block's
    shared memory is too small for a chunk.
    """
    sizes = SsdSizes.of(given)
    if given.x.dtype == torch.float64 or not card.multiplies:
        return False
    if max(sizes.head_dim, sizes.states) > WIDEST:
        return False
    of_group = SsdSizes(1, 1, sizes.heads_per_group, sizes.head_dim, 1, sizes.states)
    return _fits(of_group, given.x.dtype, card)


@cache
def _fits(sizes: SsdSizes, dtype: torch.dtype, card: Card) -> bool:
    planes = 3 if dtype == torch.float32 else 1
    traits = Traits(dtype, dtype, planes, False, True, True, True, False)
    try:
        forward_plan(sizes, traits, card)
        backward_plan(sizes, traits, card)
    except JobError:
        return False
    return True


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[Any, ...]) -> Prepared:
    """The scans of operands with this signature, with softplus or without, and limits."""
    given: Any = Operands(*layouts_of(signature))
    if len(given.x.shape) > _AXES:
        return Replicated(given, options, prepare)
    softplus, low, high = options
    if SsdSizes.of(given).empty or not has_kernels(given, card_of(given.x.device)):
        return ChunkedSsd(given, (softplus, low, high))
    return CudaSsd(given, (softplus, low, high))

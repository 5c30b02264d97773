"""The axis of replicas of a scan by heads, where `vmap` puts its own: among the heads.

There each replica has its own A and its own groups, so that one call scans all of them. Only masks
that differ between replicas have no place among the heads: those are scanned one by one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.backends import Prepared
from keelback.compiled.layouts import Layout, signature_of
from keelback.ssd._operands import Operands

#: Where the heads, or groups, are among the axes of the operands without replicas.
_HEADS: Operands[int] = Operands(
    x=2, dt=2, A=0, B=2, C=2, D=0, z=2, dt_bias=0, initial_states=1, reset=None
)
_OUTPUTS = (2, 1)
Prepare = Callable[..., Prepared]
Tensors = Sequence[Tensor | None]


class Replicated:
    """Scans of operands with the axis of replicas, by those without it."""

    def __init__(self, given: Operands[Layout], options: tuple[Any, ...], prepare: Prepare) -> None:
        self._replicas, self._options, self._prepare = given.x.shape[0], options, prepare
        reset = given.reset
        self._apart = reset is not None and reset.stride[0] != 0 and self._replicas > 1

    def forward(self, operands: Tensors, keep: bool) -> tuple[Tensor, ...]:
        """Output and last states."""
        if self._apart or self._replicas == 1:
            found = [self._call(one).forward(one, keep) for one in self._each(operands)]
            return tuple(torch.stack(parts) for parts in zip(*found, strict=True))
        inside = self._inside(operands, _HEADS)
        joined = self._call(inside).forward(inside, keep)
        return tuple(self._outside(x, axis) for x, axis in zip(joined, _OUTPUTS, strict=True))

    def backward(
        self, gradients: Tensors, kept: Tensors, operands: Tensors
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the differentiable operands."""
        if self._apart or self._replicas == 1:
            each = zip(self._each(gradients), self._each(operands), strict=True)
            found = [self._call(one).backward(given, (), one) for given, one in each]
            return tuple(
                None if parts[0] is None else torch.stack(parts)
                for parts in zip(*found, strict=True)
            )
        inside = self._inside(operands, _HEADS)
        given = self._inside(gradients, _OUTPUTS)
        return tuple(
            None if x is None else self._outside(x, axis)
            for x, axis in zip(
                self._call(inside).backward(given, (), inside), _HEADS[:-1], strict=True
            )
        )

    def _call(self, operands: Tensors) -> Prepared:
        return self._prepare(signature_of(operands), self._options)

    def _each(self, tensors: Tensors) -> list[list[Any]]:
        return [[None if x is None else x[i] for x in tensors] for i in range(self._replicas)]

    def _inside(self, tensors: Tensors, axes: Sequence[int | None]) -> list[Any]:
        """Replicas joined with the heads; a mask is that of any replica."""
        return [
            None
            if x is None
            else x[0]
            if axis is None
            else x.movedim(0, axis).flatten(axis, axis + 1)
            for x, axis in zip(tensors, axes, strict=True)
        ]

    def _outside(self, x: Tensor, axis: Any) -> Tensor:
        return (
            x.unflatten(axis, (self._replicas, x.shape[axis] // self._replicas))
            .movedim(axis, 0)
            .contiguous()
        )

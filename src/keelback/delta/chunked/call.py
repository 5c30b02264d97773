"""Delta rules in chunks as a backend runs them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.layouts import Layout, Signature, layouts_of
from keelback.compiled.watchers import without_autocast
from keelback.delta._operands import DeltaSizes, Operands, Options
from keelback.delta.chunked.backward import run_backward
from keelback.delta.chunked.forward import run_forward

_AXES = 4  # of v without replicas
Tensors = Sequence[Tensor | None]


class ChunkedDelta:
    """The delta rules of one signature; see `keelback.compiled.backends.Prepared`.

    Nothing is shared between the rows of a batch, so that replicas are more of them.
    """

    #: Of operands without replicas.
    run = staticmethod(run_forward)

    def __init__(self, given: Operands[Layout], options: Options) -> None:
        self._options, self._device = options, given.v.device
        self._replicas = given.v.shape[0] if len(given.v.shape) > _AXES else None

    def _joined(self, tensors: Tensors) -> list[Any]:
        """The axis of replicas joined with that of rows."""
        if self._replicas is None:
            return list(tensors)
        return [None if x is None else x.flatten(0, 1) for x in tensors]

    def _split(self, tensors: Tensors) -> tuple[Any, ...]:
        if self._replicas is None:
            return tuple(tensors)
        size = self._replicas
        return tuple(
            None if x is None else x.unflatten(0, (size, x.shape[0] // size if size else 0))
            for x in tensors
        )

    def forward(self, operands: Tensors, keep: bool) -> tuple[Tensor, Tensor]:
        """Output and last states; the backward pass computes again what it wants."""
        given: Operands[Tensor] = Operands(*self._joined(operands))
        sizes = DeltaSizes.of(given)
        if sizes.empty:
            last = given.v.new_zeros(sizes.batch, sizes.heads, sizes.key, sizes.value)
            start = given.initial_states
            found = [torch.zeros_like(given.v), last if start is None else start.clone()]
        else:
            with without_autocast(self._device):
                found = list(self.run(given, self._options))
        y, states = self._split(found)
        return y, states

    def backward(
        self, gradients: Tensors, kept: Tensors, operands: Tensors
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the differentiable operands."""
        given: Operands[Tensor] = Operands(*self._joined(operands))
        dy, dlast = self._joined(gradients)
        if DeltaSizes.of(given).empty:
            found = [None if x is None else torch.zeros_like(x) for x in given.differentiable]
            if found[-1] is not None and dlast is not None:
                found[-1] = dlast.clone()
            return self._split(found)
        with without_autocast(self._device):
            computed = run_backward(given, dy, dlast, self._options)
        return self._split(
            [
                None if x is None or gradient is None else gradient.contiguous()
                for x, gradient in zip(given.differentiable, computed.differentiable, strict=True)
            ]
        )


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[Any, ...]) -> ChunkedDelta:
    """The delta rules of operands with this signature."""
    given: Any = Operands(*layouts_of(signature))
    normalise, _, scale = options
    return ChunkedDelta(given, (normalise, True, scale))

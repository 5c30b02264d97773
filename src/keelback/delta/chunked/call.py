"""Delta rules in chunks as a backend runs them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.checks import HALF
from keelback.compiled.layouts import Layout, Signature, layouts_of
from keelback.compiled.watchers import without_autocast
from keelback.delta._operands import DeltaSizes, Operands, Options, dtype_of_states
from keelback.delta.chunked.backward import run_backward
from keelback.delta.chunked.forward import run_forward

_AXES = 4  # of v without replicas
Tensors = Sequence[Tensor | None]
#: The errors of all steps and the states before all segments.
Kept = tuple[Tensor | None, Tensor | None]


class ChunkedDelta:
    """The delta rules of one signature; see `keelback.compiled.backends.Prepared`.

    Nothing is shared between the rows of a batch, so that replicas are more of them.
    """

    def __init__(self, given: Operands[Layout], options: Options) -> None:
        self._options, self._device, self._dtype = options, given.v.device, given.v.dtype
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

    def forward(self, operands: Tensors, keep: bool) -> tuple[Any, ...]:
        """Output and last states, and what the backward pass wants kept."""
        given = self._taken(Operands(*self._joined(operands)))
        sizes = DeltaSizes.of(given)
        kept = self._kept(given, sizes) if keep else (None, None)
        if sizes.empty:
            shape = (sizes.batch, sizes.heads, sizes.key, sizes.value)
            last = given.v.new_zeros(shape, dtype=dtype_of_states(given.v.dtype))
            start = given.initial_states
            y = torch.zeros_like(given.v, dtype=self._dtype)
            outputs = y, last if start is None else start.clone()
        else:
            with without_autocast(self._device):
                y, last = self._run(given, kept)
            outputs = y.to(self._dtype), last
        return self._split([*outputs, *kept])

    def _taken(self, given: Operands[Tensor]) -> Operands[Tensor]:
        """As they are computed with: some may be of half precision, on a GPU."""
        *floating, reset = given
        widened = [x.float() if x is not None and x.dtype in HALF else x for x in floating]
        return Operands(*widened, reset)  # type: ignore[arg-type, call-arg]

    def _kept(self, given: Operands[Tensor], sizes: DeltaSizes) -> Kept:
        """Room for what the backward pass wants: here nothing, since it computes it again."""
        return None, None

    def _run(self, given: Operands[Tensor], kept: Kept) -> tuple[Tensor, Tensor]:
        """Output and last states of a delta rule that is not empty; fills what is to be kept."""
        return run_forward(given, self._options)

    def _gradients(
        self, given: Operands[Tensor], kept: Kept, dy: Tensor | None, dlast: Tensor | None
    ) -> Operands[Tensor]:
        """Of the operands of a delta rule that is not empty."""
        widened = None if dy is None else dy.to(given.v.dtype)
        return run_backward(given, widened, dlast, self._options)

    def backward(
        self, gradients: Tensors, kept: Tensors, operands: Tensors
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the differentiable operands."""
        asked: Operands[Tensor] = Operands(*self._joined(operands))
        given = self._taken(asked)
        dy, dlast = self._joined(gradients)
        if DeltaSizes.of(given).empty:
            found = [None if x is None else torch.zeros_like(x) for x in asked.differentiable]
            if found[-1] is not None and dlast is not None:
                found[-1] = dlast.clone()
            return self._split(found)
        with without_autocast(self._device):
            errors, states = self._joined(kept)
            computed = self._gradients(given, (errors, states), dy, dlast)
        return self._split(
            [
                None if x is None or gradient is None else gradient.to(x.dtype).contiguous()
                for x, gradient in zip(asked.differentiable, computed.differentiable, strict=True)
            ]
        )


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[Any, ...]) -> ChunkedDelta:
    """The delta rules of operands with this signature."""
    given: Any = Operands(*layouts_of(signature))
    normalise, _, scale = options
    return ChunkedDelta(given, (normalise, True, scale))

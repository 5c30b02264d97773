"""Scans in chunks as a backend runs them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from keelback.compiled.layouts import Layout
from keelback.compiled.watchers import without_autocast
from keelback.ssd._operands import Operands, Options, SsdSizes
from keelback.ssd.chunked.backward import run_backward
from keelback.ssd.chunked.forward import run_forward


class ChunkedSsd:
    """The scans of one signature; see `keelback.compiled.backends.Prepared`."""

    def __init__(self, given: Operands[Layout], options: Options) -> None:
        self._sizes, self._options = SsdSizes.of(given), options
        self._dtype, self._device = given.A.dtype, given.x.device

    def _taken(self, operands: Sequence[Tensor | None]) -> Operands[Tensor]:
        """In the dtype that is computed in: some may be of half precision, on a GPU."""
        *floating, reset = operands
        given = [None if x is None else x.to(self._dtype) for x in floating]
        return Operands(*given, reset)  # type: ignore[arg-type, call-arg]

    def forward(self, operands: Sequence[Tensor | None], keep: bool) -> tuple[Tensor, Tensor]:
        """Output and last states; the backward pass computes again what it wants."""
        x, A, initial = operands[0], operands[2], operands[8]
        assert x is not None
        assert A is not None
        if self._sizes.empty:
            sizes = self._sizes
            last = A.new_zeros(sizes.batch, sizes.heads, sizes.head_dim, sizes.states)
            return torch.empty_like(x), last if initial is None else initial.clone()
        with without_autocast(self._device):
            y, last = run_forward(self._taken(operands), self._options)
        return y.to(x.dtype), last

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the differentiable operands."""
        *differentiable, _ = operands
        dy, dlast = (None if x is None else x.to(self._dtype) for x in gradients)
        if self._sizes.empty:
            found = [None if x is None else torch.zeros_like(x) for x in differentiable]
            if found[-1] is not None and dlast is not None:
                found[-1] = dlast.clone()
            return tuple(found)
        with without_autocast(self._device):
            computed = run_backward(self._taken(operands), dy, dlast, self._options)
        return tuple(
            None if x is None or gradient is None else gradient.to(x.dtype).contiguous()
            for x, gradient in zip(differentiable, computed.differentiable, strict=True)
        )

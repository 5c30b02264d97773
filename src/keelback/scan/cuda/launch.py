"""The GPU backend: plans the launches of a scan, and hands tensors to the compiled kernels."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.cuda_driver import processors_of
from keelback.compiled.cuda_operands import addresses, layout_of
from keelback.compiled.layouts import Layout, Signature, layouts_of
from keelback.scan._operands import Operands
from keelback.scan.cuda.backward import BackwardPass
from keelback.scan.cuda.forward import ForwardPass
from keelback.scan.cuda.plan import BACKWARD, FORWARD, plan_of
from keelback.scan.cuda.signature import Addresses, CudaSignature


class CudaScan(CudaSignature):
    """The scans of one signature; see `keelback.compiled.backends.Prepared`."""

    def __init__(self, given: Operands[Layout], softplus: bool) -> None:
        super().__init__(given, softplus)
        self._forward: dict[Any, ForwardPass] = {}
        self._backward: dict[Any, BackwardPass] = {}

    def forward_pass(self, at: Addresses) -> ForwardPass:
        """The forward pass over operands that lie there, as they are taken."""
        key = self.alignment(at)
        if key not in self._forward:
            plan = plan_of(self.traits(*key), processors_of(self.device), FORWARD)
            self._forward[key] = ForwardPass(self, plan)
        return self._forward[key]

    def backward_pass(self, at: Addresses, dy: Tensor) -> BackwardPass:
        """The backward pass over operands that lie there; channels of dy are adjacent."""
        key = (*self.alignment(at, dy.data_ptr()), dy.stride())
        if key not in self._backward:
            of_dy = layout_of(dy)
            traits = self.traits(*key[:2], of_dy)
            plan = plan_of(traits, processors_of(self.device), BACKWARD)
            self._backward[key] = BackwardPass(self, plan, of_dy)
        return self._backward[key]

    def forward(self, operands: Sequence[Tensor | None], keep: bool) -> tuple[Tensor, Tensor, None]:
        """Output and last state; the backward pass computes the states again that it wants."""
        given = self.taken(operands)
        if self.sizes.empty:
            last = self.like_state()
            last.zero_() if given.initial_state is None else last.copy_(given.initial_state)
            return self.like_u(), last, None
        at = addresses(given)
        return (*self.forward_pass(at).run(at), None)

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
    ) -> tuple[Tensor | None, ...]:
        """Gradients of u, delta, A, B, C, D, z, delta_bias and initial_state."""
        dy, dlast = gradients
        given = self.taken(operands)
        if self.sizes.empty:
            found = [None if x is None else torch.zeros_like(x) for x in given.differentiable]
            if given.initial_state is not None and dlast is not None:
                found[-1] = dlast.clone()
            return tuple(found)
        dy = torch.zeros_like(given.u) if dy is None else self.adjacent(dy)
        dlast = None if dlast is None else dlast.contiguous()
        at = addresses(given)
        backward_pass = self.backward_pass(at, dy)
        return backward_pass.reverse(at, backward_pass.sweep(at, dy), dlast).differentiable

    def adjacent(self, dy: Tensor) -> Tensor:
        """A gradient of the output with adjacent channels."""
        return dy if dy.stride(-1) == 1 or dy.shape[-1] == 1 else dy.contiguous()


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[bool, ...]) -> CudaScan:
    """The scans of operands with this signature, and with softplus or without."""
    given: Any = Operands(*layouts_of(signature))
    return CudaScan(given, *options)

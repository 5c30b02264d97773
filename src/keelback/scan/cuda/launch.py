"""The GPU backend: plans the launches of a scan, and hands tensors to the compiled kernels."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.cuda_driver import processors_of
from keelback.compiled.cuda_operands import PACK, aligned, in_packs
from keelback.compiled.layouts import Blank, Layout, Signature, layouts_of
from keelback.scan._operands import Operands, ScanSizes
from keelback.scan.cuda.backward import BackwardPass
from keelback.scan.cuda.forward import ForwardPass
from keelback.scan.cuda.plan import BACKWARD, FORWARD, Traits, plan_of

#: Operands whose entries along the last axis must be neighbours; parameters may have no gaps.
_SEQUENCES = ("u", "delta", "B", "C", "z")


class CudaScan:
    """The scans of one signature; see `keelback.compiled.backends.Prepared`."""

    def __init__(self, given: Operands[Layout], softplus: bool) -> None:
        self.softplus, self.device, self.sizes = softplus, given.u.device, ScanSizes.of(given)
        self._copied = [place for place, fits in enumerate(_fit(given)) if not fits]
        self.given: Operands[Layout] = Operands(
            *(
                x.in_row_major_order() if x is not None and place in self._copied else x
                for place, x in enumerate(given)  # type: ignore[arg-type]
            )
        )
        u, A = self.given.u, self.given.A
        self.like_u = Blank(u.shape, u.dtype, u.device)
        self.like_state = Blank((*u.shape[:-2], *A.shape[-2:]), A.dtype, u.device)
        self._forward: dict[Any, ForwardPass] = {}
        self._backward: dict[Any, BackwardPass] = {}

    def taken(self, operands: Sequence[Tensor | None]) -> Operands[Tensor]:
        """The operands as the kernels take them: with adjacent channels, states and entries."""
        given = list(operands)
        for place in self._copied:
            given[place] = given[place].contiguous()  # type: ignore[union-attr]
        return Operands(*given)  # type: ignore[arg-type]

    def traits(self, aligned: bool, states_aligned: bool, *others: Layout) -> Traits:
        """What kernels specialise for; `others` are further tensors with the axes of u."""
        given, sizes = self.given, self.sizes
        sequences = [given.u, *others] if given.shares_delta else [given.u, given.delta, *others]
        if given.z is not None:
            sequences.append(given.z)
        packed = aligned and sizes.channels_per_group % PACK == 0 and all(map(in_packs, sequences))
        state_packed = states_aligned and sizes.states % PACK == 0
        state_packed = state_packed and in_packs(given.B) and in_packs(given.C)
        return Traits(
            sizes=sizes,
            dtype=given.u.dtype,
            vector=PACK if packed else 1,
            state_vector=PACK if state_packed else 1,
            softplus=self.softplus,
            has_d=given.D is not None,
            has_z=given.z is not None,
            has_reset=given.reset is not None,
            shared_delta=given.shares_delta,
            dense=all(x.contiguous for x in sequences),
        )

    def alignment(self, given: Operands[Tensor], *others: Tensor) -> tuple[bool, bool]:
        """Whether sequences, and whether B and C, begin where packs may."""
        delta = None if self.given.shares_delta else given.delta
        return aligned((given.u, delta, given.z, *others)), aligned((given.B, given.C))

    def forward_pass(self, given: Operands[Tensor]) -> ForwardPass:
        """The forward pass over operands as they are taken."""
        key = self.alignment(given)
        if key not in self._forward:
            plan = plan_of(self.traits(*key), processors_of(self.device), FORWARD)
            self._forward[key] = ForwardPass(self, plan)
        return self._forward[key]

    def backward_pass(self, given: Operands[Tensor], dy: Tensor) -> BackwardPass:
        """The backward pass over operands as they are taken; channels of dy are adjacent."""
        key = (*self.alignment(given, dy), dy.stride())
        if key not in self._backward:
            of_dy = Layout(dy.shape, dy.stride(), dy.dtype, dy.device)
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
        return (*self.forward_pass(given).run(given), None)

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
    ) -> tuple[Tensor | None, ...]:
        """Gradients of u, delta, A, B, C, D, z, delta_bias and initial_state."""
        dy, dlast = gradients
        given = self.taken(operands)
        present = given.differentiable
        if self.sizes.empty:
            found = [None if x is None else torch.zeros_like(x) for x in present]
            if given.initial_state is not None and dlast is not None:
                found[-1] = dlast.clone()
            return tuple(found)
        dy = torch.zeros_like(given.u) if dy is None else self.adjacent(dy)
        dlast = None if dlast is None else dlast.contiguous()
        backward_pass = self.backward_pass(given, dy)
        computed = backward_pass.reverse(given, backward_pass.sweep(given, dy), dlast)
        return tuple(
            None if x is None else gradient
            for x, gradient in zip(present, computed.differentiable, strict=True)
        )

    def adjacent(self, dy: Tensor) -> Tensor:
        """A gradient of the output with adjacent channels."""
        return dy if dy.stride(-1) == 1 or dy.shape[-1] == 1 else dy.contiguous()


def _fit(given: Operands[Layout]) -> list[bool]:
    """Of each operand whether the kernels take it as it lies."""
    return [
        x is None
        or (x.adjacent if name in _SEQUENCES else True if name == "reset" else x.contiguous)
        for name, x in given._asdict().items()
    ]


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[bool, ...]) -> CudaScan:
    """The scans of operands with this signature, and with softplus or without."""
    given: Any = Operands(*layouts_of(signature))
    return CudaScan(given, *options)

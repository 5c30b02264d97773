"""A process's part of a long scan on an NVIDIA GPU, in two halves with an exchange between them.

The part is cut into spans as any scan is, of which none begins with what is before it. What spans
pass on is also what the part passes on; and what comes from the parts before it reaches the first
span the way that the others are reached.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.cuda_operands import addresses, layout_of
from keelback.compiled.decay import decay_over, decayed
from keelback.compiled.layouts import signature_of
from keelback.scan._operands import Operands
from keelback.scan.cuda.backward import BackwardPass
from keelback.scan.cuda.launch import CudaScan, prepare


class ForwardPart:
    """A part scanned without the state before it; as the CPU's."""

    felt = 0  # Its backward pass has no use for it.

    def __init__(self, operands: Operands[Tensor], softplus: bool) -> None:
        self._scan, self._given = _taken(operands, softplus)
        u, A = self._given.u, self._given.A
        if self._scan.sizes.empty:
            self.end = A.new_zeros(u.shape[0], *A.shape)
            self.decay = torch.ones_like(self.end)
            return
        self._at = addresses(self._given)
        self._pass = self._scan.forward_pass(self._at)
        self._spans = self._pass.scan_spans(self._at)
        self.end, elapsed = passed_on(self._spans.states, self._spans.totals, A)
        self.decay = decay_over(elapsed, A)

    def output(self, start: Float[Tensor, "batch channels state"]) -> Tensor:
        """The output, given the state before the part."""
        if self._scan.sizes.empty:
            return torch.empty_like(self._given.u)
        return self._pass.correct_spans(self._at, self._spans, start.contiguous())[0]


class BackwardPart:
    """A part whose gradients need that of the state after it; as the CPU's."""

    def __init__(self, dy: Tensor, operands: Operands[Tensor], softplus: bool, felt: int) -> None:
        self._scan, self._given = _taken(operands, softplus)
        if self._scan.sizes.empty:
            start = operands.initial_state
            assert start is not None
            self.of_start = torch.zeros_like(start)
            return
        dy = self._scan.adjacent(dy)
        self._at = addresses(self._given)
        plan = self._scan.backward_pass(self._at, dy).plan
        self._pass = BackwardPass(self._scan, plan, layout_of(dy), in_spans=True)
        self._swept = self._pass.sweep(self._at, dy)
        adjoints, totals = self._pass.adjoints(self._swept)
        self.of_start, _ = passed_on(adjoints.flip(1), totals.flip(1), self._given.A)

    def gradients(self, of_last: Float[Tensor, "batch channels state"]) -> list[Tensor | None]:
        """Of the operands from u to delta_bias, given that of the state after the part; once."""
        if self._scan.sizes.empty:
            present = self._given.differentiable[:-1]
            return [None if x is None else torch.zeros_like(x) for x in present]
        found = self._pass.reverse(self._at, self._swept, of_last.contiguous())
        return list(found.differentiable[:-1])


def _taken(operands: Operands[Tensor], softplus: bool) -> tuple[CudaScan, Operands[Tensor]]:
    scan = prepare(signature_of(operands), (softplus,))
    return scan, scan.taken(operands)


def passed_on(
    values: Float[Tensor, "sequences spans channels state"],
    totals: Float[Tensor, "sequences spans channels"],
    A: Float[Tensor, "channels state"],
) -> tuple[Float[Tensor, "sequences channels state"], Float[Tensor, "sequences channels"]]:
    """What neighbouring spans together pass on, after the last, and the sum of their step sizes."""
    while values.shape[1] > 1:
        if values.shape[1] % 2:
            values = F.pad(values, (0, 0, 0, 0, 0, 1))
            totals = F.pad(totals, (0, 0, 0, 1))
        values = decayed(decay_over(totals[:, 1::2], A), values[:, ::2]) + values[:, 1::2]
        totals = totals[:, ::2] + totals[:, 1::2]
    return values[:, 0], totals[:, 0]

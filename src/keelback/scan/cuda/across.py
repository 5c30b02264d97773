"""A process's part of a long scan on an NVIDIA GPU, in two halves with an exchange between them.

The part is cut into spans as any scan is, of which none begins with what is before it. What spans
pass on is also what the part passes on; and what comes from the parts before it reaches the first
span the way that the others are reached.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.cuda_operands import adjacent
from keelback.compiled.replicas import one_replica
from keelback.scan._decay import decay_over, decayed
from keelback.scan.cuda.backward import reverse, sweep
from keelback.scan.cuda.forward import correct_spans, forward_plan, scan_spans
from keelback.scan.cuda.operands import operands


class ForwardPart:
    """A part scanned without the state before it; as `_across_cpu.ForwardPart`."""

    felt = 0  # Its backward pass has no use for it.

    def __init__(self, parameters: Any, reset: Tensor | None, softplus: bool) -> None:
        self._given = operands(*one_replica(*parameters, None, reset, softplus))
        u, A = self._given.u[0], self._given.A[0]
        if self._given.shape.empty:
            self.end = A.new_zeros(u.shape[0], *A.shape)
            self.decay = torch.ones_like(self.end)
            return
        self._spans = scan_spans(self._given, forward_plan(self._given))
        self.end, elapsed = passed_on(self._spans.states, self._spans.totals, A)
        self.decay = decay_over(elapsed, A)

    def output(self, start: Float[Tensor, "batch channels state"]) -> Tensor:
        """The output, given the state before the part."""
        if self._given.shape.empty:
            return torch.empty_like(self._given.u[0])
        return correct_spans(self._given, self._spans, start.contiguous())[0][0]


class BackwardPart:
    """A part whose gradients need that of the state after it; as `_across_cpu.BackwardPart`."""

    def __init__(
        self,
        dy: Tensor,
        start: Float[Tensor, "batch channels state"],
        parameters: Any,
        reset: Tensor | None,
        softplus: bool,
        felt: int,
    ) -> None:
        self._parameters = parameters
        self._given = operands(*one_replica(*parameters, start, reset, softplus))
        if self._given.shape.empty:
            self.of_start = torch.zeros_like(start)
            return
        self._swept = sweep(self._given, adjacent(dy).unsqueeze(0), in_spans=True)
        adjoints, totals = self._swept.adjoints, self._swept.totals
        assert adjoints is not None
        assert totals is not None
        self.of_start, _ = passed_on(adjoints.flip(1), totals.flip(1), self._given.A[0])

    def gradients(self, of_last: Float[Tensor, "batch channels state"]) -> list[Tensor | None]:
        """Of the parameters, given that of the state after the part."""
        if self._given.shape.empty:
            return [None if x is None else torch.zeros_like(x) for x in self._parameters]
        found = reverse(self._given, self._swept, of_last.contiguous())
        return [
            None if x is None or gradient is None else gradient[0]
            for x, gradient in zip(self._parameters, found, strict=False)
        ]


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

"""The forward scan on an NVIDIA GPU: its buffers and launches."""

from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from keelback.compiled.cuda_launch import Launch
from keelback.compiled.cuda_operands import addresses, all_strides, outer_strides
from keelback.compiled.layouts import Blank
from keelback.scan.cuda.plan import CudaPlan
from keelback.scan.cuda.signature import Addresses, CudaSignature

#: Axes before the last one of u and of reset, of B, with that of replicas.
OF_U, OF_B, OF_RESET = 3, 4, 3


class Spans(NamedTuple):
    """A scan whose spans do not yet know of each other: spans.cuh says more.

    `states` (sequence, span, channel, state) are those at the ends of the spans, `totals`
    (sequence, span, channel) the sums of their step sizes, infinite where there is a reset.
    """

    y: Tensor
    states: Tensor
    totals: Tensor


class ForwardPass:
    """The forward pass over operands of one signature, cut by one plan."""

    def __init__(self, scan: CudaSignature, plan: CudaPlan) -> None:
        self.plan, self._scan = plan, scan
        sizes, A = scan.sizes, scan.given.A
        spans = (sizes.sequences, plan.spans, sizes.channels)
        self._states = Blank((*spans, sizes.states), A.dtype, scan.device)
        self._totals = Blank(spans, A.dtype, scan.device)

    @cached_property
    def _whole(self) -> Launch:
        return self._output(spanned=False)

    @cached_property
    def _in_spans(self) -> Launch:
        return self._output(spanned=True)

    def _output(self, spanned: bool) -> Launch:
        scan, plan, given = self._scan, self.plan, self._scan.given
        configuration = plan.configuration.for_output(spanned)
        fields = {
            "u": outer_strides(given.u, OF_U),
            "delta": outer_strides(given.delta, OF_U),
            "z": outer_strides(given.z, OF_U),
            "B": outer_strides(given.B, OF_B),
            "C": outer_strides(given.C, OF_B),
            "reset": all_strides(given.reset, OF_RESET),
            **dict.fromkeys(("A", "D", "bias", "initial", "y", "last", "states", "totals"), ()),
        }
        return Launch(
            "forward",
            configuration,
            scan.device.index,
            plan.blocks,
            configuration.threads,
            plan.numbers,
            fields,
        )

    @cached_property
    def _correcting(self) -> Launch:
        scan, plan, given = self._scan, self.plan, self._scan.given
        configuration = plan.configuration.for_correcting
        fields = {
            "delta": outer_strides(given.delta, OF_U),
            "z": outer_strides(given.z, OF_U),
            "C": outer_strides(given.C, OF_B),
            "reset": all_strides(given.reset, OF_RESET),
            **dict.fromkeys(("A", "bias", "initial", "states", "totals", "y", "last"), ()),
        }
        return Launch(
            "correct",
            configuration,
            scan.device.index,
            plan.blocks,
            configuration.threads,
            plan.numbers,
            fields,
        )

    def run(self, at: Addresses) -> tuple[Tensor, Tensor]:
        """Output and last state of operands that lie there."""
        if self.plan.spans > 1:
            return self.correct_spans(at, self.scan_spans(at), None)
        y, last = self._scan.like_u(), self._scan.like_state()
        self._whole(_addresses(at, y.data_ptr(), last.data_ptr(), 0, 0))
        return y, last

    def scan_spans(self, at: Addresses) -> Spans:
        """The first half of a scan in spans, even of one that is a single span."""
        y, states, totals = self._scan.like_u(), self._states(), self._totals()
        self._in_spans(_addresses(at, y.data_ptr(), 0, states.data_ptr(), totals.data_ptr()))
        return Spans(y, states, totals)

    def correct_spans(
        self, at: Addresses, spans: Spans, start: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What the spans pass on reaches the outputs after them; correct.cu says more.

        `start` (replica, row, channel, state) is the state before the first span, where that began
        from zero.
        """
        last = self._scan.like_state()
        _, delta, A, _, C, _, z, bias, _, reset = at
        found = addresses((start, spans.states, spans.totals, spans.y, last))
        self._correcting((delta, z, C, reset, A, bias, *found))
        return spans.y, last


def _addresses(at: Addresses, y: int, last: int, states: int, totals: int) -> Addresses:
    u, delta, A, B, C, D, z, bias, initial, reset = at
    return u, delta, z, B, C, reset, A, D, bias, initial, y, last, states, totals

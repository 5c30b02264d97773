"""The forward scan on an NVIDIA GPU: its buffers and launches."""

from dataclasses import dataclass

import torch
from torch import Tensor

from keelback.compiled.cuda_driver import kernel, processors_of
from keelback.compiled.cuda_operands import address, packed_arguments, sequences
from keelback.scan.cuda.operands import Operands, state_sequences
from keelback.scan.cuda.plan import FORWARD, Plan, plan_of


@dataclass(frozen=True, eq=False)
class Spans:
    """A scan whose spans do not yet know of each other: spans.cuh says more.

    `states` (sequence, span, channel, state) are those at the ends of the spans, `totals`
    (sequence, span, channel) the sums of their step sizes, infinite where there is a reset.
    """

    plan: Plan
    y: Tensor
    states: Tensor
    totals: Tensor


def run_forward(given: Operands, plan: Plan | None = None) -> tuple[Tensor, Tensor]:
    """Output (replica, row, time, channel) and last state (replica, row, channel, state)."""
    plan = plan or forward_plan(given)
    if plan.spans > 1:
        return correct_spans(given, scan_spans(given, plan), None)
    y, last = _new_output(given), _new_state(given)
    _launch(given, plan, y, last, None, None)
    return y, last


def forward_plan(given: Operands) -> Plan:
    """How a forward pass over these operands is cut."""
    return plan_of(given.traits(), processors_of(given.device), FORWARD)


def scan_spans(given: Operands, plan: Plan) -> Spans:
    """The first half of a scan in spans, even of one that is a single span."""
    shape, new, y = given.shape, given.A.new_empty, _new_output(given)
    states = new(shape.sequences, plan.spans, shape.channels, shape.states)
    totals = new(shape.sequences, plan.spans, shape.channels)
    _launch(given, plan, y, None, states, totals)
    return Spans(plan, y, states, totals)


def correct_spans(given: Operands, spans: Spans, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the spans pass on reaches the outputs after them; correct.cu says more.

    `start` (replica, row, channel, state) is the state before the first span, where that began
    from zero.
    """
    configuration = spans.plan.configuration.for_correcting
    last = _new_state(given)
    arguments = packed_arguments(
        spans.plan.sizes,
        delta=sequences(given.delta),
        z=sequences(given.z),
        C=state_sequences(given.C),
        reset=sequences(given.reset),
        A=address(given.A),
        bias=address(given.delta_bias),
        initial=address(start),
        states=address(spans.states),
        totals=address(spans.totals),
        y=address(spans.y),
        last=address(last),
    )
    kernel("correct", configuration, given.device.index).launch(
        spans.plan.blocks, configuration.threads, arguments
    )
    return spans.y, last


def _new_output(given: Operands) -> Tensor:
    return torch.empty(given.u.shape, dtype=given.u.dtype, device=given.device)


def _new_state(given: Operands) -> Tensor:
    return given.A.new_empty(given.u.shape[:2] + given.A.shape[1:])


def _launch(
    given: Operands,
    plan: Plan,
    y: Tensor,
    last: Tensor | None,
    states: Tensor | None,
    totals: Tensor | None,
) -> None:
    arguments = packed_arguments(
        plan.sizes,
        u=sequences(given.u),
        delta=sequences(given.delta),
        z=sequences(given.z),
        B=state_sequences(given.B),
        C=state_sequences(given.C),
        reset=sequences(given.reset),
        A=address(given.A),
        D=address(given.D),
        bias=address(given.delta_bias),
        initial=address(given.initial_state),
        y=address(y),
        last=address(last),
        states=address(states),
        totals=address(totals),
    )
    configuration = plan.configuration.for_output(states is not None)
    kernel("forward", configuration, given.device.index).launch(
        plan.blocks, configuration.threads, arguments
    )

"""The forward scan on an NVIDIA GPU: its buffers and launches."""

import torch
from torch import Tensor

from keelback.scan._cuda.driver import kernel, processors_of
from keelback.scan._cuda.operands import (
    Operands,
    address,
    packed_arguments,
    sequences,
    state_sequences,
)
from keelback.scan._cuda.plan import FORWARD, Plan, plan_of


def run_forward(
    given: Operands, plan: Plan | None = None, last: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Output (replica, row, time, channel) and last state (replica, row, channel, state).

    The last state goes to `last`, where it is given: the initial state itself may be overwritten.
    """
    u, shape = given.u, given.shape
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    if last is None:
        last = given.A.new_empty(u.shape[:2] + given.A.shape[1:])
    if plan is None:
        plan = plan_of(given.traits(y), processors_of(u.device), FORWARD)
    states = totals = None
    if plan.spans > 1:
        states = given.A.new_empty(shape.sequences, plan.spans, shape.channels, shape.states)
        totals = given.A.new_empty(shape.sequences, plan.spans, shape.channels)
    arguments = packed_arguments(
        plan.sizes,
        u=sequences(u),
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
    configuration = plan.configuration.for_output(plan.spans > 1)
    kernel("forward", configuration, u.device.index).launch(
        plan.blocks, configuration.threads, arguments
    )
    if plan.spans > 1:
        _launch_correction(given, plan, states, totals, y, last)
    return y, last


def _launch_correction(
    given: Operands,
    plan: Plan,
    states: Tensor | None,
    totals: Tensor | None,
    y: Tensor,
    last: Tensor,
) -> None:
    """What the spans pass on reaches the outputs after them; correct.cu says more."""
    configuration = plan.configuration.for_correcting
    arguments = packed_arguments(
        plan.sizes,
        delta=sequences(given.delta),
        z=sequences(given.z),
        C=state_sequences(given.C),
        reset=sequences(given.reset),
        A=address(given.A),
        bias=address(given.delta_bias),
        states=address(states),
        totals=address(totals),
        y=address(y),
        last=address(last),
    )
    kernel("correct", configuration, given.device.index).launch(
        plan.blocks, configuration.threads, arguments
    )

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

NO_CHECKPOINTS = (0, 0, 0)


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
        launch_sweep(given, plan, plan.spans - 1, states=states, totals=totals)
    arguments = packed_arguments(
        plan.sizes(plan.spans),
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
        states=address(states),
        totals=address(totals),
        y=address(y),
        last=address(last),
    )
    configuration = plan.configuration
    kernel("forward", configuration, u.device.index).launch(
        plan.blocks(plan.spans), configuration.threads, arguments
    )
    return y, last


def launch_sweep(
    given: Operands,
    plan: Plan,
    spans: int,
    dy: Tensor | None = None,
    checkpoints: tuple[int, int, int] | None = None,
    elapsed: tuple[int, int, int] = NO_CHECKPOINTS,
    states: Tensor | None = None,
    adjoints: Tensor | None = None,
    totals: Tensor | None = None,
) -> None:
    """The recurrence without its output, over the first `spans` spans; sweep.cu says more."""
    configuration = plan.configuration.for_sweeping(
        plan.spans > 1, adjoints is not None, checkpoints is not None
    )
    arguments = packed_arguments(
        plan.sizes(spans),
        u=sequences(given.u),
        delta=sequences(given.delta),
        z=sequences(given.z),
        dy=sequences(dy),
        B=state_sequences(given.B),
        C=state_sequences(given.C),
        reset=sequences(given.reset),
        A=address(given.A),
        bias=address(given.delta_bias),
        initial=address(given.initial_state),
        checkpoints=checkpoints or NO_CHECKPOINTS,
        elapsed=elapsed,
        states=address(states),
        adjoints=address(adjoints),
        totals=address(totals),
    )
    kernel("sweep", configuration, given.device.index).launch(
        plan.blocks(spans), configuration.threads, arguments
    )

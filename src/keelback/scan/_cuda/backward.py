"""The gradients of the scan on an NVIDIA GPU: their buffers and launches."""

from dataclasses import dataclass
from typing import TypeAlias

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
from keelback.scan._cuda.plan import BACKWARD, Plan, plan_of

#: `Checkpoints` of checkpoints.cuh: address, rows of a sequence, rows from one tile to the next.
Rows: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Gradients:
    """The gradients of a scan, shaped as its operands."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor | None
    delta_bias: Tensor
    initial_state: Tensor | None


def run_backward(
    given: Operands, dy: Tensor, last_gradient: Tensor | None, plan: Plan | None = None
) -> Gradients:
    """The gradients of every operand, from those of the output and the last state."""
    u, shape = given.u, given.shape
    new = given.A.new_empty
    du = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    ddelta = torch.empty_like(du)
    dz = None if given.z is None else torch.empty_like(du)
    if plan is None:
        traits = given.traits(du, ddelta, dy)
        plan = plan_of(traits, processors_of(u.device), BACKWARD)

    checkpoints, buffer = checkpoint_rows(plan, du)
    elapsed = (address(ddelta), shape.length, 0)
    states = adjoints = totals = None
    if plan.spans > 1 and not letters_fit(plan, du):
        states = new(shape.sequences, plan.spans, shape.channels, shape.states)
        adjoints = torch.empty_like(states)
        totals = new(shape.sequences, plan.spans, shape.channels)
    _launch_sweep(given, plan, dy, checkpoints, elapsed, states, adjoints, totals)

    deterministic = torch.are_deterministic_algorithms_enabled()
    parts = plan.blocks_per_group if deterministic else 1
    narrow = plan.blocks_per_group == 1
    dB, dC = (new(parts, *x.shape, dtype=x.dtype if narrow else None) for x in (given.B, given.C))
    per_part = (shape.replicas, shape.rows * plan.spans if deterministic else 1, shape.channels)
    dA, dD, dbias = new(*per_part, shape.states), new(per_part), new(per_part)
    add_grouped = plan.blocks_per_group > parts
    added = [dB, dC] if add_grouped else []
    if not deterministic:
        added += [dA, dD, dbias]
    if added:
        torch._foreach_zero_(added)
    dinitial = None if given.initial_state is None else torch.empty_like(given.initial_state)
    arguments = packed_arguments(
        plan.sizes,
        u=sequences(u),
        delta=sequences(given.delta),
        z=sequences(given.z),
        dy=sequences(dy),
        B=state_sequences(given.B),
        C=state_sequences(given.C),
        reset=sequences(given.reset),
        A=address(given.A),
        D=address(given.D),
        bias=address(given.delta_bias),
        initial=address(given.initial_state),
        final=address(last_gradient),
        states=address(states),
        adjoints=address(adjoints),
        totals=address(totals),
        checkpoints=checkpoints,
        elapsed=elapsed,
        du=address(du),
        ddelta=address(ddelta),
        dz=address(dz),
        dB=address(dB),
        dC=address(dC),
        partial=0 if parts == 1 else dB[0].numel(),
        dA=address(dA),
        dD=address(dD),
        dbias=address(dbias),
        dinitial=address(dinitial),
    )
    configuration = plan.configuration.for_reversing(
        plan.spans > 1, add_grouped, narrow, not deterministic
    )
    kernel("reverse", configuration, u.device.index).launch(
        plan.blocks, configuration.threads, arguments
    )
    del buffer  # Kept until here for the kernel that reads it.

    return Gradients(
        u=du,
        delta=ddelta.sum(-1, keepdim=True) if given.shared_delta else ddelta,
        A=_summed(dA, 1),
        B=_summed(dB, 0).to(given.B.dtype),
        C=_summed(dC, 0).to(given.C.dtype),
        D=_summed(dD, 1),
        z=dz,
        delta_bias=_summed(dbias, 1),
        initial_state=dinitial,
    )


def _launch_sweep(
    given: Operands,
    plan: Plan,
    dy: Tensor,
    checkpoints: Rows,
    elapsed: Rows,
    states: Tensor | None,
    adjoints: Tensor | None,
    totals: Tensor | None,
) -> None:
    """The recurrence without its output; sweep.cu says more."""
    configuration = plan.configuration.for_sweeping(plan.spans > 1)
    arguments = packed_arguments(
        plan.sizes,
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
        checkpoints=checkpoints,
        elapsed=elapsed,
        states=address(states),
        adjoints=address(adjoints),
        totals=address(totals),
    )
    kernel("sweep", configuration, given.device.index).launch(
        plan.blocks, configuration.threads, arguments
    )


def _summed(x: Tensor, axis: int) -> Tensor:
    return x.squeeze(axis) if x.shape[axis] == 1 else x.sum(axis)


def checkpoint_rows(plan: Plan, du: Tensor) -> tuple[Rows, Tensor | None]:
    """The states at the starts of tiles: in `du` where they fit, else in a buffer of their own."""
    shape, rows = plan.shape, _rows_of_states(plan, du)
    if rows <= plan.configuration.tile:
        return (address(du), shape.length, 0), None
    of_sequence = plan.spans * plan.tiles_per_span * rows
    buffer = du.new_empty(shape.sequences, of_sequence, shape.channels)
    return (address(buffer), of_sequence, rows), buffer


def letters_fit(plan: Plan, du: Tensor) -> bool:
    """Whether what the spans pass on fits into their last tiles of `du`; letters.cuh says more."""
    tile, rows = plan.configuration.tile, _rows_of_states(plan, du)
    last_span = plan.shape.length - (plan.spans - 1) * plan.span_length
    whole = rows == plan.shape.states and last_span >= tile
    return whole and rows + (plan.spans - 1) * (rows + 1) <= tile


def _rows_of_states(plan: Plan, du: Tensor) -> int:
    return plan.shape.states * (1 if du.dtype == torch.float64 else 4 // du.element_size())

"""The gradients of the scan on an NVIDIA GPU: their buffers and launches."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from keelback.compiled.cuda_driver import kernel, processors_of
from keelback.compiled.cuda_operands import address, packed_arguments, sequences
from keelback.scan.cuda.operands import Operands, state_sequences
from keelback.scan.cuda.plan import BACKWARD, Plan, plan_of

#: `Checkpoints` of checkpoints.cuh: address, rows of a sequence, rows from one tile to the next.
Rows: TypeAlias = tuple[int, int, int]


class Gradients(NamedTuple):
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


@dataclass(frozen=True, eq=False)
class Sweep:
    """What the first half of a backward pass leaves: checkpoints, and what its spans pass on.

    `states`, `adjoints` (sequence, span, channel, state) and `totals` (sequence, span, channel) are
    absent where one span is all, and where spans write letters.
    """

    plan: Plan
    spanned: bool
    dy: Tensor
    du: Tensor
    ddelta: Tensor
    checkpoints: Rows
    buffer: Tensor | None
    states: Tensor | None
    adjoints: Tensor | None
    totals: Tensor | None


def run_backward(
    given: Operands, dy: Tensor, last_gradient: Tensor | None, plan: Plan | None = None
) -> Gradients:
    """The gradients of every operand, from those of the output and the last state."""
    return reverse(given, sweep(given, dy, plan), last_gradient)


def sweep(
    given: Operands, dy: Tensor, plan: Plan | None = None, *, in_spans: bool = False
) -> Sweep:
    """The recurrence without its output; sweep.cu says more.

    `in_spans` has what the spans pass on in tensors, even of one that is a single span, which
    then begins without the initial state.
    """
    u, shape = given.u, given.shape
    du = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    ddelta = torch.empty_like(du)
    if plan is None:
        traits = given.traits(du, ddelta, dy)
        plan = plan_of(traits, processors_of(u.device), BACKWARD)
    checkpoints, buffer = checkpoint_rows(plan, du)
    states = adjoints = totals = None
    spanned = in_spans or plan.spans > 1
    if in_spans or (spanned and not letters_fit(plan, du)):
        states = given.A.new_empty(shape.sequences, plan.spans, shape.channels, shape.states)
        adjoints = torch.empty_like(states)
        totals = given.A.new_empty(shape.sequences, plan.spans, shape.channels)
    swept = Sweep(plan, spanned, dy, du, ddelta, checkpoints, buffer, states, adjoints, totals)
    _launch_sweep(given, swept)
    return swept


def reverse(given: Operands, swept: Sweep, last_gradient: Tensor | None) -> Gradients:
    """The gradients, by a pass backward from checkpoint to checkpoint; reverse.cu says more."""
    u, shape, plan, new = given.u, given.shape, swept.plan, given.A.new_empty
    dz = None if given.z is None else torch.empty_like(swept.du)
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
        dy=sequences(swept.dy),
        B=state_sequences(given.B),
        C=state_sequences(given.C),
        reset=sequences(given.reset),
        A=address(given.A),
        D=address(given.D),
        bias=address(given.delta_bias),
        initial=address(given.initial_state),
        final=address(last_gradient),
        states=address(swept.states),
        adjoints=address(swept.adjoints),
        totals=address(swept.totals),
        checkpoints=swept.checkpoints,
        elapsed=_elapsed_rows(given, swept),
        du=address(swept.du),
        ddelta=address(swept.ddelta),
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
        swept.spanned, add_grouped, narrow, not deterministic
    )
    kernel("reverse", configuration, u.device.index).launch(
        plan.blocks, configuration.threads, arguments
    )

    ddelta = swept.ddelta
    return Gradients(
        u=swept.du,
        delta=ddelta.sum(-1, keepdim=True) if given.shared_delta else ddelta,
        A=_summed(dA, 1),
        B=_summed(dB, 0).to(given.B.dtype),
        C=_summed(dC, 0).to(given.C.dtype),
        D=_summed(dD, 1),
        z=dz,
        delta_bias=_summed(dbias, 1),
        initial_state=dinitial,
    )


def _launch_sweep(given: Operands, swept: Sweep) -> None:
    configuration = swept.plan.configuration.for_sweeping(swept.spanned)
    arguments = packed_arguments(
        swept.plan.sizes,
        u=sequences(given.u),
        delta=sequences(given.delta),
        z=sequences(given.z),
        dy=sequences(swept.dy),
        B=state_sequences(given.B),
        C=state_sequences(given.C),
        reset=sequences(given.reset),
        A=address(given.A),
        bias=address(given.delta_bias),
        initial=address(given.initial_state),
        checkpoints=swept.checkpoints,
        elapsed=_elapsed_rows(given, swept),
        states=address(swept.states),
        adjoints=address(swept.adjoints),
        totals=address(swept.totals),
    )
    kernel("sweep", configuration, given.device.index).launch(
        swept.plan.blocks, configuration.threads, arguments
    )


def _elapsed_rows(given: Operands, swept: Sweep) -> Rows:
    """The time since a span's start at the start of each tile, where ddelta will be."""
    return (address(swept.ddelta), given.shape.length, 0)


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

"""The gradients of the scan by heads on an NVIDIA GPU: their buffers and launches."""

from typing import NamedTuple

import torch
from torch import Tensor

from keelback.compiled.cuda_driver import kernel
from keelback.compiled.cuda_operands import address, packed_arguments
from keelback.ssd.cuda.forward import launch_outputs
from keelback.ssd.cuda.launches import (
    Steps,
    Walk,
    find_states,
    find_steps,
    states_buffer,
    tensor_map,
    with_maps,
)
from keelback.ssd.cuda.operands import Operands, in_pieces, limits, sequences, skip, strided
from keelback.ssd.cuda.plan import BackwardPlan


class Gradients(NamedTuple):
    """The gradients of a scan by heads, shaped as its operands."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    initial_states: Tensor | None


class _Grouped(NamedTuple):
    """The gradients of B and C, and the sums of parts of them, where heads come in subsets."""

    dB: Tensor
    dC: Tensor
    sums: Tensor | None

    def whole(self) -> tuple[Tensor, Tensor]:
        """The gradients, once all subsets are there."""
        if self.sums is None or self.sums.shape[1] == 1:
            return self.dB, self.dC
        dB, dC = self.sums.sum(1)
        return dB.to(self.dB.dtype), dC.to(self.dC.dtype)


def run_backward(
    given: Operands, dy: Tensor, dlast: Tensor | None, plan: BackwardPlan
) -> Gradients:
    """The gradients of every operand, from those of the output and, if any, of the last state."""
    shape, cut = given.shape, plan.cut
    dx = torch.empty(given.x.shape, dtype=given.x.dtype, device=given.device)
    ddt = torch.empty(given.dt.shape, dtype=given.dt.dtype, device=given.device)
    dinitial = None
    if given.initial_states is not None:
        dinitial = torch.empty_like(given.initial_states)
    grouped = _new_grouped(given, plan)
    parts = given.A.new_empty(
        shape.batch * cut.chunks,
        shape.heads,
        2 + plan.gradients.skip_sums,
        dtype=torch.float32,
    )
    steps = find_steps(given, cut, plan.steps)
    states = states_buffer(given, cut, plan.states)
    adjoints = torch.empty_like(states)
    dy = in_pieces(dy)
    dz = dgated = None
    if plan.gate is not None:
        dz, dgated = (torch.empty_like(dx) for _ in range(2))
    for launch in range(cut.launches):
        gated = dy if dgated is None else dgated
        ahead = Walk(given.x, given.B, given.initial_states, states, None)
        back = Walk(gated, given.C, dlast, adjoints, dinitial)
        if plan.gate is None:
            find_states(given, cut, plan.states, launch, steps, ahead, back)
        else:
            find_states(given, cut, plan.states, launch, steps, ahead, None)
            launch_outputs(given, cut, launch, plan.gate, steps, states, gated, dy, dz)
            find_states(given, cut, plan.states, launch, steps, None, back)
        between = (states, adjoints)
        _launch_gradients(given, plan, launch, steps, between, gated, dlast, dx, ddt, grouped, parts)
    dA, dbias, dD = _of_parameters(given, plan, parts)
    dB, dC = grouped.whole()
    return Gradients(dx, ddt, dA, dB, dC, dD, dz, dbias, dinitial)


def _new_grouped(given: Operands, plan: BackwardPlan) -> _Grouped:
    dB, dC = (torch.empty(x.shape, dtype=x.dtype, device=given.device) for x in (given.B, given.C))
    cut, sums = plan.cut, None
    if cut.subsets > 1 or cut.launches > 1:
        sums = given.A.new_empty(2, cut.subsets, *dB.shape, dtype=torch.float32)
    return _Grouped(dB, dC, sums)


def _launch_gradients(
    given: Operands,
    plan: BackwardPlan,
    launch: int,
    steps: Steps,
    between: tuple[Tensor, Tensor],
    dy: Tensor,
    dlast: Tensor | None,
    dx: Tensor,
    ddt: Tensor,
    grouped: _Grouped,
    parts: Tensor,
) -> None:
    cut, sums = plan.cut, grouped.sums
    narrows = cut.subsets == 1 and launch + 1 == cut.launches
    has_start, has_end = given.initial_states is not None, dlast is not None
    arguments = packed_arguments(
        (*cut.sizes(launch), has_start, has_end, launch > 0, narrows),
        x=sequences(given.x),
        B=sequences(given.B),
        C=sequences(given.C),
        dy=sequences(dy),
        steps=steps.fields,
        states=map(address, between),
        dt=strided(given.dt, 3),
        A=address(given.A),
        bias=address(given.dt_bias),
        limits=limits(given.dt_limit),
        D=skip(given.D),
        dx=address(dx),
        ddt=address(ddt),
        grouped=(address(grouped.dB), address(grouped.dC)),
        sums=(0, 0) if sums is None else (address(sums[0]), address(sums[1])),
        parts=address(parts),
    )
    maps, tiles = b"", plan.gradients.tiles
    if tiles.wide:
        maps = tensor_map(given.x, tiles.head_tile, tiles.chunk)
        maps += tensor_map(given.B, tiles.padded_states, tiles.chunk)
        maps += tensor_map(given.C, tiles.padded_states, tiles.chunk)
        maps += tensor_map(dy, tiles.head_tile, tiles.chunk)
    kernel(plan.gradients.kernel, plan.gradients, given.device.index).launch(
        cut.blocks(launch), plan.gradients.threads, with_maps(maps, arguments)
    )


def _of_parameters(
    given: Operands, plan: BackwardPlan, parts: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of A, the bias and D."""
    sums = parts.sum(0)
    dD = None
    if given.D is not None:
        dD = sums[:, 2 : 2 + given.shape.head_dim] if given.skip_per_number else sums[:, 2]
        dD = dD.to(given.D.dtype)
    dbias = None if given.dt_bias is None else sums[:, 1].to(given.dt_bias.dtype)
    return sums[:, 0].to(given.A.dtype), dbias, dD

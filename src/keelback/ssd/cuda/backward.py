"""The gradients of the scan by heads on an NVIDIA GPU: their buffers and launches."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from keelback.compiled.cuda_launch import BoxMap, Field, Launch, box_map
from keelback.compiled.cuda_operands import Room, address, bits_of_floats, strides_of
from keelback.compiled.layouts import Blank, Layout
from keelback.ssd._operands import Operands
from keelback.ssd.cuda.forward import OutputsLaunch, launch_steps
from keelback.ssd.cuda.launches import (
    StatesLaunches,
    StepsAt,
    Walk,
    WalkAt,
    numbers_of_states,
    steps_launch,
    sums_of_segments,
)
from keelback.ssd.cuda.plan import BackwardPlan
from keelback.ssd.cuda.signature import CudaSignature


class _Launches(NamedTuple):
    """Of some heads: with a gate, the states first, what is before it, and then the way back."""

    steps: Launch
    states: StatesLaunches
    gate: OutputsLaunch | None
    back: StatesLaunches | None
    gradients: Launch


class BackwardPass:
    """The backward pass over operands of one signature, cut by one plan."""

    def __init__(self, scan: CudaSignature, plan: BackwardPlan, dy: Layout, ends: bool) -> None:
        cut, given, room, sizes = plan.cut, scan.given, Room(), scan.sizes
        self._scan, self._plan = scan, plan
        self._steps = StepsAt.in_room(room, scan, cut, plan.steps.tiles)
        numbers = numbers_of_states(scan, cut, plan.states)
        width = given.x.dtype.itemsize
        self._states, self._adjoints = (room.take(numbers, width) for _ in range(2))
        directions = 2 if plan.gate is None else 1
        self._sums = [room.take(size) for size in sums_of_segments(cut, plan.states, directions)]
        of_x = given.x.in_row_major_order()
        self._gated = room.take(of_x.shape.numel(), width) if plan.gate is not None else None
        self._room = Blank((room.bytes,), torch.uint8, scan.device)
        parts = (sizes.batch * cut.chunks, sizes.heads, 2 + plan.gradients.skip_sums)
        self._parts = Blank(parts, torch.float32, scan.device)
        of_group = (2, *given.B.shape)
        self._grouped = Blank(of_group, given.B.dtype, scan.device)
        self._in_parts = cut.subsets > 1 or cut.launches > 1
        self._group_sums = Blank((2, cut.subsets, *given.B.shape), torch.float32, scan.device)
        self._like_dt = Blank(given.dt.shape, given.dt.dtype, scan.device)
        self._ends = ends
        before_gate = dy if plan.gate is None else of_x
        self._launches = [
            self._of_launch(launch, dy, before_gate) for launch in range(cut.launches)
        ]

    def _of_launch(self, launch: int, dy: Layout, before_gate: Layout) -> _Launches:
        scan, plan = self._scan, self._plan
        cut, given = plan.cut, scan.given
        ahead, back = Walk(given.x, given.B), Walk(before_gate, given.C)
        steps = steps_launch(scan, cut, plan.steps, launch)
        gradients = self._gradients_launch(launch, before_gate)
        if plan.gate is None:
            both = StatesLaunches(scan, cut, plan.states, launch, ahead, back)
            return _Launches(steps, both, None, None, gradients)
        return _Launches(
            steps,
            StatesLaunches(scan, cut, plan.states, launch, ahead, None),
            OutputsLaunch(scan, cut, launch, plan.gate, dy),
            StatesLaunches(scan, cut, plan.states, launch, None, back),
            gradients,
        )

    def _gradients_launch(self, launch: int, dy: Layout) -> Launch:
        scan, cut, configuration = self._scan, self._plan.cut, self._plan.gradients
        given, tiles = scan.given, configuration.tiles
        narrows = cut.subsets == 1 and launch + 1 == cut.launches
        maps: Sequence[BoxMap | None] = ()
        if tiles.wide:
            maps = (
                box_map(given.x, tiles.head_tile, tiles.chunk),
                box_map(given.B, tiles.padded_states, tiles.chunk),
                box_map(given.C, tiles.padded_states, tiles.chunk),
                box_map(dy, tiles.head_tile, tiles.chunk),
            )
        fields: dict[str, Field] = {
            "x": strides_of(given.x),
            "B": strides_of(given.B),
            "C": strides_of(given.C),
            "dy": strides_of(dy),
            **dict.fromkeys(("steps", "firsts", "states", "adjoints"), ()),
            "dt": given.dt.stride,
            **dict.fromkeys(("A", "bias"), ()),
            "limits": bits_of_floats(*scan.limits),
            "D": (0 if given.D is None else given.D.stride[0],),
            **dict.fromkeys(("dx", "ddt", "dB", "dC", "dB_sums", "dC_sums", "parts"), ()),
        }
        flags = (given.initial_states is not None, self._ends, launch > 0, narrows)
        return Launch(
            configuration.kernel,
            configuration,
            scan.device.index,
            cut.blocks(launch),
            configuration.threads,
            (*cut.sizes(launch), *flags),
            fields,
            maps,
        )

    def run(self, given: Operands[Tensor], dy: Tensor, dlast: Tensor | None) -> Operands[Tensor]:
        """The gradients of all operands, from those of the output and, if any, the last states."""
        scan, cut = self._scan, self._plan.cut
        dx, ddt, parts, room = scan.like_x(), self._like_dt(), self._parts(), self._room()
        dz = None if given.z is None else scan.like_x()
        dinitial = None if given.initial_states is None else scan.like_states()
        sums = self._group_sums() if self._in_parts else None
        narrows = cut.subsets == 1
        grouped = self._grouped() if narrows else None
        begin = room.data_ptr()
        steps = self._steps.moved(begin)
        states, adjoints = begin + self._states, begin + self._adjoints
        of_segments = tuple(begin + offset for offset in self._sums)
        before_gate = dy.data_ptr() if self._gated is None else begin + self._gated
        x, B, C = given.x.data_ptr(), given.B.data_ptr(), given.C.data_ptr()
        ahead = WalkAt(x, B, address(given.initial_states), states, 0)
        back = WalkAt(before_gate, C, address(dlast), adjoints, address(dinitial))
        parameters = (address(given.A), address(given.dt_bias), address(given.D))
        found = (
            *(x, B, C, before_gate, *steps, states, adjoints, given.dt.data_ptr(), *parameters),
            *(dx.data_ptr(), ddt.data_ptr(), *_halves(grouped), *_halves(sums), parts.data_ptr()),
        )
        mapped = (x, B, C, before_gate) if self._plan.gradients.tiles.wide else ()
        for launches in self._launches:
            launch_steps(launches.steps, given, steps)
            if launches.gate is None or launches.back is None:
                launches.states((ahead, back), steps, *of_segments)
            else:
                launches.states((ahead,), steps, *of_segments)
                launches.gate(given, steps, states, before_gate, dy, dz)
                launches.back((back,), steps, *of_segments)
            launches.gradients(found, mapped)
        if grouped is None:
            assert sums is not None
            grouped = sums.sum(1).to(given.B.dtype)
        dA, dbias, dD = self._of_parameters(given, parts)
        return Operands(dx, ddt, dA, grouped[0], grouped[1], dD, dz, dbias, dinitial)

    def _of_parameters(
        self, given: Operands[Tensor], parts: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The gradients of A, the bias and D."""
        sums = parts.sum(0)
        rows = sums[:, :3].t().contiguous()
        dD = None
        if given.D is not None:
            per_number = self._scan.skip_per_number
            dD = sums[:, 2 : 2 + given.x.shape[-1]].contiguous() if per_number else rows[2]
        return rows[0], None if given.dt_bias is None else rows[1], dD


def _halves(of_both: Tensor | None) -> tuple[int, int]:
    """Where what is of B begins, and where what is of C."""
    if of_both is None:
        return 0, 0
    begin = of_both.data_ptr()
    return begin, begin + of_both.nbytes // 2

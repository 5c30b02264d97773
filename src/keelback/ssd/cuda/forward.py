"""The forward scan by heads on an NVIDIA GPU: its buffers and launches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from keelback.compiled.cuda_launch import BoxMap, Field, Launch, box_map
from keelback.compiled.cuda_operands import Room, address, strides_of
from keelback.compiled.layouts import Blank, Layout
from keelback.ssd._operands import Operands
from keelback.ssd.cuda.configuration import OutputsConfiguration, Tiles, WalkConfiguration
from keelback.ssd.cuda.launches import (
    StatesLaunches,
    StepsAt,
    Walk,
    WalkAt,
    numbers_of_states,
    steps_launch,
    sums_of_segments,
)
from keelback.ssd.cuda.plan import Cut, ForwardPlan, StatesPlan
from keelback.ssd.cuda.signature import CudaSignature


class ForwardPass:
    """The forward pass over operands of one signature, cut by one plan."""

    def __init__(self, scan: CudaSignature, plan: ForwardPlan) -> None:
        cut, given, room = plan.cut, scan.given, Room()
        self._scan = scan
        self._steps = StepsAt.in_room(room, scan, cut, plan.steps.tiles)
        self._sums = [room.take(size) for size in sums_of_segments(cut, plan.states, 1)]
        self._find_steps = steps_launch(scan, cut, plan.steps)
        walk, outputs = Walk(given.x, given.B), plan.outputs
        self._states = room.bytes
        self._find_outputs: OutputsLaunch | WalkLaunch
        if isinstance(outputs, WalkConfiguration):
            self._find_states = StatesLaunches(scan, cut, plan.states, 0, walk, None, (0,))
            self._find_outputs = WalkLaunch(scan, cut, plan.states, outputs)
        else:
            numbers = numbers_of_states(scan, cut, plan.states)
            self._states = room.take(numbers, given.x.dtype.itemsize)
            self._find_states = StatesLaunches(scan, cut, plan.states, 0, walk, None)
            self._find_outputs = OutputsLaunch(scan, cut, 0, outputs)
        self._room = Blank((room.bytes,), torch.uint8, scan.device)

    def run(self, given: Operands[Tensor]) -> tuple[Tensor, Tensor]:
        """Output (row, time, head, number) and last states (row, head, number, state)."""
        y, last, room = self._scan.like_x(), self._scan.like_states(), self._room()
        begin = room.data_ptr()
        steps, states = self._steps.moved(begin), begin + self._states
        x, B = given.x.data_ptr(), given.B.data_ptr()
        launch_steps(self._find_steps, given, steps)
        walk = WalkAt(x, B, address(given.initial_states), states, last.data_ptr())
        sums, decays = self._sums
        self._find_states((walk,), steps, begin + sums, begin + decays)
        if isinstance(self._find_outputs, WalkLaunch):
            self._find_outputs(given, steps, y, last, begin + sums, begin + decays)
        else:
            self._find_outputs(given, steps, states, y.data_ptr())
        return y, last


def launch_steps(launch: Launch, given: Operands[Tensor], steps: StepsAt) -> None:
    """Find what is known of each step."""
    used = (given.dt, given.A, given.dt_bias, given.reset)
    launch((*map(address, used), *steps))


class OutputsLaunch:
    """The outputs from the states between the chunks; outputs.cuh says more.

    With the layout of `dy`, what is written is the gradient of the outputs before the gate, and
    that of the gate.
    """

    def __init__(
        self,
        scan: CudaSignature,
        cut: Cut,
        launch: int,
        configuration: OutputsConfiguration,
        dy: Layout | None = None,
    ) -> None:
        given, tiles = scan.given, configuration.tiles
        maps = _maps_of(given, tiles) if tiles.wide else ()
        self._mapped = bool(maps)
        self._launch = Launch(
            configuration.kernel,
            configuration,
            scan.device.index,
            cut.blocks(launch),
            configuration.threads,
            (*cut.sizes(launch), given.initial_states is not None),
            _fields_of(given, dy),
            maps,
        )

    def __call__(
        self,
        given: Operands[Tensor],
        steps: StepsAt,
        states: int,
        y: int,
        dy: Tensor | None = None,
        dz: Tensor | None = None,
    ) -> None:
        """Write y, or with `dy` the gradient of the outputs before the gate, and dz."""
        x, B, C = given.x.data_ptr(), given.B.data_ptr(), given.C.data_ptr()
        before = (x, B, C, address(given.z), *steps, states, address(given.D))
        self._launch((*before, address(dy), y, address(dz)), (x, B, C) if self._mapped else ())


class WalkLaunch:
    """Outputs and last states by a walk through the chunks; walk_wide.cu says more."""

    def __init__(
        self, scan: CudaSignature, cut: Cut, plan: StatesPlan, configuration: WalkConfiguration
    ) -> None:
        given = scan.given
        sizes = (*cut.joined(), given.initial_states is not None)
        y = given.x.in_row_major_order()
        self._launch = Launch(
            configuration.kernel,
            configuration,
            scan.device.index,
            plan.segments * plan.blocks_of_segment(cut),
            configuration.threads,
            (plan.segments, plan.chunks_per_segment, *sizes),
            {**_fields_of(given, None), **dict.fromkeys(("start", "end", "sums", "decays"), ())},
            (*_maps_of(given, configuration.tiles), box_map(y, configuration.tiles.head_tile, 16)),
        )

    def __call__(
        self, given: Operands[Tensor], steps: StepsAt, y: Tensor, last: Tensor, *sums: int
    ) -> None:
        """Write y and the last states."""
        x, B, C = given.x.data_ptr(), given.B.data_ptr(), given.C.data_ptr()
        before = (x, B, C, address(given.z), *steps, 0, address(given.D), 0, y.data_ptr(), 0)
        ends = (address(given.initial_states), last.data_ptr())
        self._launch((*before, *ends, *sums), (x, B, C, y.data_ptr()))


def _maps_of(given: Operands[Layout], tiles: Tiles) -> Sequence[BoxMap | None]:
    """For boxes of a chunk of x, B and C."""
    return (
        box_map(given.x, tiles.head_tile, tiles.chunk),
        box_map(given.B, tiles.padded_states, tiles.chunk),
        box_map(given.C, tiles.padded_states, tiles.chunk),
    )


def _fields_of(given: Operands[Layout], dy: Layout | None) -> dict[str, Field]:
    """Those of `OutputsArguments`."""
    return {
        "x": strides_of(given.x),
        "B": strides_of(given.B),
        "C": strides_of(given.C),
        "z": strides_of(given.z),
        **dict.fromkeys(("steps", "firsts", "states"), ()),
        "D": (0 if given.D is None else given.D.stride[0],),
        "dy": strides_of(dy),
        **dict.fromkeys(("y", "dz"), ()),
    }

"""The launches that forward and backward passes share: the steps, and the states between chunks."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from keelback.compiled.cuda_launch import BoxMap, Field, Launch, box_map
from keelback.compiled.cuda_operands import Room, bits_of_floats, strides_of
from keelback.compiled.layouts import Layout
from keelback.ssd.cuda.configuration import StepsConfiguration, Tiles
from keelback.ssd.cuda.plan import Cut, StatesPlan
from keelback.ssd.cuda.signature import CudaSignature

THREADS_OF_WARP = 32


class StepsAt(NamedTuple):
    """`Steps` of places.cuh: (row, slot, chunk, field, step) and, for the resets, (row, time)."""

    numbers: int
    firsts: int

    @classmethod
    def in_room(cls, room: Room, scan: CudaSignature, cut: Cut, tiles: Tiles) -> "StepsAt":
        """Their offsets."""
        sizes, padded = scan.sizes, cut.chunks * cut.chunk
        numbers = room.take(sizes.batch * cut.slots * padded * tiles.step_fields)
        return cls(numbers, room.take(sizes.batch * padded if scan.given.reset is not None else 0))

    def moved(self, start: int) -> "StepsAt":
        """Their addresses in a room that begins at an address."""
        return StepsAt(self.numbers + start, self.firsts + start)


def steps_launch(
    scan: CudaSignature, cut: Cut, configuration: StepsConfiguration, launch: int = 0
) -> Launch:
    """Step sizes and decays of all steps of a launch's heads; steps.cu says more."""
    given, sizes = scan.given, scan.sizes
    warps = configuration.threads // THREADS_OF_WARP
    reset = (0, 0) if given.reset is None else given.reset.stride
    return Launch(
        "steps",
        configuration,
        scan.device.index,
        sizes.batch * cut.chunks * -(-cut.slots_of(launch) // warps),
        configuration.threads,
        cut.sizes(launch),
        {
            "dt": given.dt.stride,
            "A": (),
            "bias": (),
            "limits": bits_of_floats(*scan.limits),
            "reset": reset,
            **dict.fromkeys(("steps", "firsts"), ()),
        },
    )


class Walk(NamedTuple):
    """`Walk` of states.cuh: the layouts of x and B, or dy and C, in one direction."""

    x: Layout
    B: Layout

    def fields(self, name: str) -> Mapping[str, Field]:
        """The structure."""
        of_x: Field = strides_of(self.x)
        of_B: Field = strides_of(self.B)
        rest: dict[str, Field] = {f"{name}.{one}": () for one in ("start", "states", "end")}
        return {f"{name}.x": of_x, f"{name}.B": of_B, **rest}


class WalkAt(NamedTuple):
    """The addresses of its tensors."""

    x: int
    B: int
    start: int
    states: int
    end: int


class StatesLaunches:
    """The states before each chunk, or the gradients of those after; states.cuh says more.

    `passes` are what each segment adds, where there are several (0), and the walk (1).
    """

    def __init__(
        self,
        scan: CudaSignature,
        cut: Cut,
        plan: StatesPlan,
        launch: int,
        ahead: Walk | None,
        back: Walk | None,
        passes: Sequence[int] = (0, 1),
    ) -> None:
        configuration, blocks = plan.configuration, plan.blocks_of_segment(cut, launch)
        walks = [walk for walk in (ahead, back) if walk is not None]
        maps: list[BoxMap | None] = []
        if configuration.tiles.wide:
            for walk in (walks[0], walks[-1]):
                maps.append(box_map(walk.x, configuration.tiles.head_tile, configuration.rows))
                maps.append(box_map(walk.B, configuration.state_tile, configuration.rows))
        fields: dict[str, Field] = {**walks[0].fields("ahead"), **walks[-1].fields("back")}
        fields |= dict.fromkeys(("steps", "firsts", "sums", "decays"), ())
        numbers = (*cut.joined(launch), plan.segments, plan.chunks_per_segment, ahead is None)
        self._mapped = bool(maps)
        self._launches = [
            Launch(
                configuration.kernel,
                configuration,
                scan.device.index,
                len(walks) * plan.segments * blocks,
                configuration.threads,
                (*numbers, pass_),
                fields,
                maps,
            )
            for pass_ in passes
            if pass_ or plan.segments > 1
        ]

    def __call__(self, walks: Sequence[WalkAt], steps: StepsAt, sums: int, decays: int) -> None:
        """Walk ahead, back or both, in this order."""
        first, last = walks[0], walks[-1]
        mapped = (*first[:2], *last[:2]) if self._mapped else ()
        for launch in self._launches:
            launch((*first, *last, *steps, sums, decays), mapped)


def sums_of_segments(cut: Cut, plan: StatesPlan, walks: int) -> tuple[int, int]:
    """How many numbers `sums` and `decays` of states.cuh have."""
    if plan.segments == 1:
        return 0, 0
    configuration = plan.configuration
    blocks = walks * (plan.segments - 1) * plan.blocks_of_segment(cut)
    numbers = configuration.heads * configuration.tiles.head_tile * configuration.state_tile
    return blocks * numbers, blocks * configuration.heads


def numbers_of_states(scan: CudaSignature, cut: Cut, plan: StatesPlan) -> int:
    """Of the states between the chunks, in one direction, of a launch."""
    return scan.sizes.batch * cut.chunks * cut.slots * plan.configuration.tiles.state_numbers

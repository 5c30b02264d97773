"""The launches that forward and backward passes share: the steps, and the states between chunks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from keelback.compiled.cuda_driver import encoded_map, kernel
from keelback.compiled.cuda_operands import address, packed_arguments
from keelback.ssd.cuda.configuration import StepsConfiguration
from keelback.ssd.cuda.operands import Operands, limits, sequences, strided
from keelback.ssd.cuda.plan import Cut, StatesPlan

THREADS_OF_WARP = 32
PANEL_COLUMNS = 64
ALIGNMENT_OF_MAPS = 64


def tensor_map(x: Tensor, columns: int, rows: int) -> bytes:
    """`TensorMap` of an operand (row, time, head, number), for boxes of some columns and times.

    float32 has none: threads split its numbers as they copy them.
    """
    if x.dtype == torch.float32:
        return bytes(128)
    sizes, strides = x.shape[::-1], [stride * x.element_size() for stride in x.stride()[2::-1]]
    box = (min(columns, PANEL_COLUMNS), 1, rows, 1)
    return encoded_map(x.data_ptr(), x.dtype, tuple(sizes), tuple(strides), box)


def with_maps(maps: bytes, arguments: bytes) -> bytes:
    """A kernel's argument that begins with tensor maps."""
    if not maps:
        return arguments
    return maps + arguments + bytes(-len(arguments) % ALIGNMENT_OF_MAPS)


@dataclass(frozen=True, eq=False)
class Steps:
    """`Steps` of places.cuh: (row, head, chunk, field, step) and, for the resets, (row, time)."""

    numbers: Tensor
    firsts: Tensor | None

    @property
    def fields(self) -> tuple[int, int]:
        """The structure."""
        return address(self.numbers), address(self.firsts)


@dataclass(frozen=True, eq=False)
class Walk:
    """`Walk` of states.cu: one direction through the chunks."""

    x: Tensor
    B: Tensor
    start: Tensor | None
    states: Tensor
    end: Tensor | None

    @property
    def fields(self) -> tuple[int, ...]:
        """The structure."""
        pointers = (self.start, self.states, self.end)
        return (*sequences(self.x), *sequences(self.B), *map(address, pointers))


def find_steps(given: Operands, cut: Cut, configuration: StepsConfiguration) -> Steps:
    """Step sizes and decays of every step; steps.cu says more."""
    shape = given.shape
    tiles = configuration.tiles
    size = (shape.batch, shape.heads, cut.chunks, tiles.step_fields, tiles.chunk)
    numbers = torch.empty(size, dtype=torch.float32, device=given.device)
    firsts = None
    if given.reset is not None:
        padded = cut.chunks * cut.chunk
        firsts = torch.empty(shape.batch, padded, dtype=torch.int32, device=given.device)
    steps = Steps(numbers, firsts)
    arguments = packed_arguments(
        cut.sizes(),
        dt=strided(given.dt, 3),
        A=address(given.A),
        bias=address(given.dt_bias),
        limits=limits(given.dt_limit),
        reset=strided(given.reset, 2),
        steps=steps.fields,
    )
    blocks = shape.batch * cut.chunks * -(-shape.heads // (configuration.threads // THREADS_OF_WARP))
    kernel("steps", configuration, given.device.index).launch(
        blocks, configuration.threads, arguments
    )
    return steps


def states_buffer(given: Operands, cut: Cut, plan: StatesPlan) -> Tensor:
    """Room for the states between the chunks, in one direction, of a launch."""
    numbers = plan.configuration.tiles.state_numbers
    return given.x.new_empty(given.shape.batch, cut.chunks, cut.slots, numbers)


def find_states(
    given: Operands,
    cut: Cut,
    plan: StatesPlan,
    launch: int,
    steps: Steps,
    ahead: Walk | None,
    back: Walk | None,
) -> None:
    """The states before each chunk, and the gradients of those after; states.cu says more."""
    walks = [walk for walk in (ahead, back) if walk is not None]
    configuration = plan.configuration
    blocks = plan.blocks_of_segment(cut, launch)
    sums = decays = None
    if plan.segments > 1:
        of_block = configuration.warps * THREADS_OF_WARP * _sums_of_thread(plan)
        new = given.A.new_empty
        sums = new(len(walks), plan.segments, blocks, of_block, dtype=torch.float32)
        decays = new(len(walks), plan.segments, blocks, configuration.heads, dtype=torch.float32)
    maps = b""
    if configuration.tiles.wide:
        every = [back if ahead is None else ahead, ahead if back is None else back]
        for walk in every:
            assert walk is not None
            maps += tensor_map(walk.x, configuration.tiles.head_tile, configuration.rows)
            maps += tensor_map(walk.B, configuration.state_tile, configuration.rows)
    for pass_ in range(2) if plan.segments > 1 else (1,):
        arguments = packed_arguments(
            (*cut.joined(launch), plan.segments, plan.chunks_per_segment, ahead is None, pass_),
            ahead=walks[0].fields,
            back=walks[-1].fields,
            steps=steps.fields,
            sums=address(sums),
            decays=address(decays),
        )
        kernel(configuration.kernel, configuration, given.device.index).launch(
            len(walks) * plan.segments * blocks,
            configuration.threads,
            with_maps(maps, arguments),
        )


def _sums_of_thread(plan: StatesPlan) -> int:
    configuration = plan.configuration
    numbers = configuration.heads * configuration.tiles.head_tile * configuration.state_tile
    return numbers // (configuration.warps * THREADS_OF_WARP)

"""How a scan by heads is cut: chunks and tiles, heads over blocks, and the length over segments."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol, TypeVar

import torch

from keelback.compiled.cuda_card import Card
from keelback.compiled.cuda_tiles import BLOCK_OF_TILE
from keelback.errors import JobError
from keelback.ssd._operands import SsdSizes
from keelback.ssd.cuda.configuration import (
    GradientsConfiguration,
    OutputsConfiguration,
    StatesConfiguration,
    StepsConfiguration,
    Tiles,
    WalkConfiguration,
)

#: Numbers of a head, and states, that a block works on at a time.
HEAD_TILE = 64
STATE_TILE = 128
#: Steps of a chunk; of the backward pass, whose blocks also hold the gradients of B and C.
FORWARD_CHUNK = 128
BACKWARD_CHUNK = 64
WALK_CHUNK = 64
#: Work of a block of `outputs.cu`, `gradients.cu` before its first head, in heads.
OUTPUTS_PROLOGUE = 1.5
GRADIENTS_PROLOGUE = 2.0
#: Work of a block of `states.cu` before its first chunk, in chunks.
START_OF_WALK = 2
#: Bytes of the states that a backward pass keeps at a time, in those of x: heads wait for others.
STATES_AT_A_TIME = 2.0


@dataclass(frozen=True)
class Traits:
    """All that a plan depends on beside the sizes."""

    dtype: torch.dtype
    step_dtype: torch.dtype
    planes: int
    softplus: bool
    has_reset: bool
    has_z: bool
    skip_per_number: bool
    signed: bool  # whether step sizes may be negative


@dataclass(frozen=True)
class Cut:
    """A group's heads in subsets of `heads` each, `subsets` of them per launch and `launches`."""

    shape: SsdSizes
    chunk: int
    heads: int
    subsets: int = 1
    launches: int = 1

    @property
    def chunks(self) -> int:
        """Chunks of the length."""
        return -(-self.shape.length // self.chunk)

    @property
    def slots(self) -> int:
        """Heads of a launch, some of which may be absent; the last launch may have fewer."""
        return self.slots_of(0)

    def slots_of(self, launch: int) -> int:
        """Those of one launch."""
        return self.shape.groups * self.subsets_of(launch) * self.heads

    def subsets_of(self, launch: int) -> int:
        """Subsets of a launch: the last one may have fewer."""
        all_ = -(-self.shape.heads_per_group // self.heads)
        return min(self.subsets, all_ - launch * self.subsets)

    def sizes(self, launch: int = 0) -> tuple[int, ...]:
        """`Sizes` of places.cuh."""
        shape = self.shape
        return (
            shape.batch,
            shape.length,
            shape.heads,
            shape.groups,
            self.chunks,
            shape.head_dim,
            shape.states,
            shape.heads_per_group,
            self.heads,
            self.subsets_of(launch),
            launch * self.subsets * self.heads,
        )

    def joined(self, launch: int = 0) -> tuple[int, ...]:
        """`Sizes` for kernels that need no subsets: those of a launch are one."""
        *sizes, heads, subsets, first = self.sizes(launch)
        return (*sizes, heads * subsets, 1, first)

    def blocks(self, launch: int = 0) -> int:
        """Blocks that have a chunk of a subset each."""
        shape = self.shape
        return shape.batch * self.chunks * shape.groups * self.subsets_of(launch)


@dataclass(frozen=True)
class StatesPlan:
    """The walk through the states: how many segments, of how many chunks."""

    configuration: StatesConfiguration
    segments: int
    chunks_per_segment: int

    def blocks_of_segment(self, cut: Cut, launch: int = 0) -> int:
        """Blocks that walk through a segment, in one direction."""
        configuration, shape = self.configuration, cut.shape
        tiles = configuration.tiles
        per_group = -(-cut.heads * cut.subsets_of(launch) // configuration.heads)
        state_tiles = tiles.padded_states // configuration.state_tile
        return shape.batch * shape.groups * per_group * tiles.head_tiles * state_tiles


@dataclass(frozen=True)
class ForwardPlan:
    """The launches of a forward pass; those of a walk find states only to cut the length."""

    cut: Cut
    steps: StepsConfiguration
    states: StatesPlan
    outputs: OutputsConfiguration | WalkConfiguration


@dataclass(frozen=True)
class BackwardPlan:
    """The launches of a backward pass; `gate` where there is one to go through first."""

    cut: Cut
    steps: StepsConfiguration
    states: StatesPlan
    gate: OutputsConfiguration | None
    gradients: GradientsConfiguration


def tiles_of(
    shape: SsdSizes,
    dtype: torch.dtype,
    planes: int,
    chunk: int,
    split: int = 1,
    head_tile: int = HEAD_TILE,
) -> Tiles:
    """Tiles of equal size, in which warps that split a tile have equal parts."""
    unit = BLOCK_OF_TILE * split
    head_tiles = -(-shape.head_dim // max(head_tile, unit))
    state_tiles = -(-shape.states // STATE_TILE)
    head_tile = -(-shape.head_dim // (head_tiles * unit)) * unit
    state_unit = max(unit // state_tiles, BLOCK_OF_TILE)
    state_tile = -(-shape.states // (state_tiles * state_unit)) * state_unit
    return Tiles(dtype, chunk, head_tile, head_tiles, state_tiles * state_tile, planes)


def wide_tiles_of(
    shape: SsdSizes, dtype: torch.dtype, planes: int, chunk: int, head_tile: int = HEAD_TILE
) -> Tiles | None:
    """Tiles for products by warpgroups, whose columns are 32, 64 or 128; none for the smallest."""
    if shape.head_dim <= BLOCK_OF_TILE or shape.states <= BLOCK_OF_TILE:
        return None
    states = next(
        (size for size in (32, 64) if shape.states <= size), -(-shape.states // 128) * 128
    )
    if -(-shape.head_dim // 32) % 2:  # halves of a tile would be empty
        head_tile = 32
    return Tiles(dtype, chunk, head_tile, -(-shape.head_dim // head_tile), states, planes, True)


Configuration = TypeVar("Configuration", bound="_HasSharedBytes")


class _HasSharedBytes(Protocol):
    @property
    def shared_bytes(self) -> int: ...


def _first_fitting(ways: Iterable[Configuration], card: Card, what: str) -> Configuration:
    for configuration in ways:
        if configuration.shared_bytes <= card.shared_bytes:
            return configuration
    raise JobError(f"a block of this GPU has too little shared memory for {what}")


def states_configuration(tiles: Tiles, heads_per_group: int, card: Card) -> StatesConfiguration:
    """Two heads to a block where there are as many, four warps to each where its tile has room."""
    heads = min(2, heads_per_group)
    padded = tiles.head_tiles * tiles.head_tile
    if padded % HEAD_TILE == 0:
        tiles = replace(tiles, head_tile=HEAD_TILE, head_tiles=padded // HEAD_TILE)
    tiles = replace(tiles, wide=tiles.wide and tiles.head_tile == HEAD_TILE)
    state_tile = min(tiles.padded_states, STATE_TILE)
    if tiles.padded_states % state_tile:
        state_tile = tiles.padded_states // 2
    of_rows = 4 if tiles.wide else 2 if tiles.head_tile % 32 == 0 else 1
    of_columns = 1 if tiles.wide else 2 if state_tile % 32 == 0 else 1
    rows = [(tiles.chunk, 3), (min(tiles.chunk, 64), 3), (64, 2), (32, 3), (32, 2), (16, 2)]
    return _first_fitting(
        [
            StatesConfiguration(
                tiles, row, heads, state_tile, heads * of_rows * of_columns, of_rows, stages
            )
            for row, stages in rows
            if row <= tiles.chunk
        ],
        card,
        "the states of a head",
    )


def _ways(
    shape: SsdSizes, traits: Traits, card: Card, sizes: Iterable[tuple[int, int]], split: int
) -> list[Tiles]:
    """Tiles for chunks and parts of a head of these sizes, those for warpgroups first."""
    given = (shape, traits.dtype, traits.planes)
    wide = [
        wide_tiles_of(*given, chunk, head_tile)
        for chunk, head_tile in sizes
        if card.wide and chunk % 64 == 0 and head_tile % 32 == 0
    ]
    narrow = [tiles_of(*given, chunk, split, head_tile) for chunk, head_tile in sizes]
    return [tiles for tiles in wide if tiles is not None] + narrow


def outputs_configuration(shape: SsdSizes, traits: Traits, card: Card) -> OutputsConfiguration:
    """As many stages as there is room for, in as long chunks."""
    sizes = ((FORWARD_CHUNK, HEAD_TILE), (64, HEAD_TILE), (64, 32), (32, 16))
    flags = (traits.has_z, False, traits.has_reset, traits.skip_per_number, traits.signed)
    tiles = _ways(shape, traits, card, sizes, 1)
    return _first_fitting(
        (way for one in tiles for way in _outputs_ways(one, flags)), card, "a chunk"
    )


def _outputs_ways(
    tiles: Tiles, flags: tuple[bool, bool, bool, bool, bool]
) -> Iterator[OutputsConfiguration]:
    if tiles.wide:
        for stages, own_b in ((2, True), (2, False), (1, True), (1, False)):
            yield OutputsConfiguration(tiles, stages, *flags, own_b=own_b)
    else:
        for stages in (4, 3, 2):
            yield OutputsConfiguration(tiles, stages, *flags)


def gate_configuration(tiles: Tiles, traits: Traits, card: Card) -> OutputsConfiguration | None:
    """For the way back through the gate, in the tiles of the gradients."""
    if not traits.has_z:
        return None
    flags = (True, True, traits.has_reset, traits.skip_per_number, traits.signed)
    return _first_fitting(_outputs_ways(tiles, flags), card, "a chunk")


def heads_of_subset(blocks: int, heads: int, resident: int, prologue: float) -> int:
    """Heads to a block, so that full waves of blocks do little work before their first head."""

    def cost(subset: int) -> float:
        waves = -(-blocks * -(-heads // subset) // resident)
        return waves * (subset + prologue)

    return min(range(heads, 0, -1), key=cost)


def segments_of(blocks: int, chunks: int, resident: int) -> tuple[int, int]:
    """Segments of the length, and chunks of each: several where few blocks would walk."""

    def cost(segments: int) -> float:
        waves = -(-blocks * segments // resident)
        passes = 1.0 if segments == 1 else 2.0 + 0.02 * segments
        return waves * (-(-chunks // segments) + START_OF_WALK) * passes

    segments = min(range(1, min(chunks // 4, 32) + 1), key=cost, default=1)
    length = -(-chunks // segments)
    return -(-chunks // length), length


def states_plan(
    cut: Cut, configuration: StatesConfiguration, directions: int, card: Card
) -> StatesPlan:
    """A walk through all chunks by as many blocks as the card has room for."""
    whole = StatesPlan(configuration, 1, cut.chunks)
    resident = card.processors * configuration.blocks_per_processor
    blocks = whole.blocks_of_segment(cut) * directions
    return StatesPlan(configuration, *segments_of(blocks, cut.chunks, resident))


def walk_plan(shape: SsdSizes, traits: Traits, card: Card) -> ForwardPlan | None:
    """States and outputs in one walk; none where a warpgroup cannot have all states of a head."""
    if traits.planes > 1 or not card.wide:
        return None
    tiles = wide_tiles_of(shape, traits.dtype, 1, WALK_CHUNK)
    if tiles is None or tiles.head_tile != HEAD_TILE or tiles.padded_states > STATE_TILE:
        return None
    heads = min(2, shape.heads_per_group)
    flags = (traits.has_z, traits.has_reset, traits.skip_per_number, traits.signed)
    walk = _first_fitting(
        [WalkConfiguration(tiles, heads, stages, *flags) for stages in (3, 2)], card, "a chunk"
    )
    states = _first_fitting(
        [
            StatesConfiguration(
                tiles,
                tiles.chunk,
                heads,
                tiles.padded_states,
                warps=4 * heads,
                warps_of_rows=4,
                stages=stages,
                overlaps=True,
            )
            for stages in (5, 3, 2)
        ],
        card,
        "the states of a head",
    )
    cut = Cut(shape, tiles.chunk, shape.heads_per_group)
    return ForwardPlan(
        cut,
        StepsConfiguration(tiles, traits.step_dtype, traits.softplus, traits.has_reset),
        states_plan(cut, states, 1, card),
        walk,
    )


def chunks_plan(shape: SsdSizes, traits: Traits, card: Card) -> ForwardPlan:
    """The states first, and then the outputs of all chunks at once."""
    outputs = outputs_configuration(shape, traits, card)
    tiles = outputs.tiles
    blocks = shape.batch * -(-shape.length // tiles.chunk) * shape.groups
    resident = card.processors * outputs.blocks_per_processor
    heads = heads_of_subset(blocks, shape.heads_per_group, resident, OUTPUTS_PROLOGUE)
    cut = Cut(shape, tiles.chunk, heads, -(-shape.heads_per_group // heads))
    states = states_configuration(tiles, shape.heads_per_group, card)
    return ForwardPlan(
        cut,
        StepsConfiguration(tiles, traits.step_dtype, traits.softplus, traits.has_reset),
        states_plan(cut, states, 1, card),
        outputs,
    )


@cache
def forward_plan(shape: SsdSizes, traits: Traits, card: Card) -> ForwardPlan:
    """The launches of a forward pass."""
    return walk_plan(shape, traits, card) or chunks_plan(shape, traits, card)


def gradients_configuration(shape: SsdSizes, traits: Traits, card: Card) -> GradientsConfiguration:
    """By warpgroups where these have room for the gradients of B and C; else two warps share 16
    steps. The chunks are as long as there is room for.
    """
    sizes = ((BACKWARD_CHUNK, HEAD_TILE), (BACKWARD_CHUNK, 32), (32, 32))
    flags = (traits.softplus, traits.has_reset, traits.skip_per_number)
    ways = [
        GradientsConfiguration(tiles, traits.step_dtype, 1 if tiles.wide else 2, stages, *flags)
        for tiles in _ways(shape, traits, card, sizes, 2)
        for stages in (2, 1)
        if not tiles.wide or tiles.padded_states <= STATE_TILE
    ]
    return _first_fitting(ways, card, "the gradients of a chunk")


def launches_of(shape: SsdSizes, tiles: Tiles) -> int:
    """Launches into which a group's heads fall, for the memory that states between them take."""
    ratio = 2 * tiles.state_numbers / (tiles.chunk * shape.head_dim)
    return min(max(1, math.ceil(ratio / STATES_AT_A_TIME)), shape.heads_per_group)


def backward_cut(shape: SsdSizes, tiles: Tiles, launches: int, blocks: int, resident: int) -> Cut:
    """The heads of each launch in subsets for the blocks."""
    of_launch = -(-shape.heads_per_group // launches)
    heads = heads_of_subset(blocks, of_launch, resident, GRADIENTS_PROLOGUE)
    subsets = -(-of_launch // heads)
    launches = -(-shape.heads_per_group // (subsets * heads))
    return Cut(shape, tiles.chunk, heads, subsets, launches)


@cache
def backward_plan(shape: SsdSizes, traits: Traits, card: Card) -> BackwardPlan:
    """The launches of a backward pass."""
    gradients = gradients_configuration(shape, traits, card)
    tiles = gradients.tiles
    blocks = shape.batch * -(-shape.length // tiles.chunk) * shape.groups
    resident = card.processors * gradients.blocks_per_processor
    cut = backward_cut(shape, tiles, launches_of(shape, tiles), blocks, resident)
    states = states_configuration(tiles, shape.heads_per_group, card)
    return BackwardPlan(
        cut,
        StepsConfiguration(tiles, traits.step_dtype, traits.softplus, traits.has_reset),
        states_plan(cut, states, 2, card),
        gate_configuration(tiles, traits, card),
        gradients,
    )

"""How a scan is cut: states over threads, channels over blocks, and time over both if need be."""

from dataclasses import dataclass, replace
from functools import cache

import torch

from keelback.errors import InputError
from keelback.scan._cuda.configuration import WARP, Configuration

MAX_STATES = 256
#: Threads a block aims at, and threads that keep a multiprocessor busy.
BLOCK_THREADS = 128
RESIDENT_THREADS = 384


@dataclass(frozen=True)
class Cutting:
    """When the length is cut into spans: none is shorter than `min_span`, and there are enough for
    `waves` times the threads that the multiprocessors hold, so that one block's end is another's
    start.
    """

    min_span: int
    waves: int


#: Cutting costs the forward pass another run through the recurrence, and the backward pass little.
FORWARD = Cutting(min_span=256, waves=2)
BACKWARD = Cutting(min_span=64, waves=1)


@dataclass(frozen=True)
class Shape:
    """The sizes of one scan; u has the shape (replicas, rows, length, channels)."""

    replicas: int
    rows: int
    length: int
    channels: int
    states: int
    groups: int

    @property
    def sequences(self) -> int:
        """Rows of all replicas."""
        return self.replicas * self.rows

    @property
    def channels_per_group(self) -> int:
        """Channels that share B and C."""
        return self.channels // self.groups

    @property
    def empty(self) -> bool:
        """Whether there is no step to compute."""
        return not (self.sequences and self.length and self.channels)


@dataclass(frozen=True)
class Traits:
    """All that a plan depends on."""

    shape: Shape
    dtype: torch.dtype
    vector: int
    state_vector: int
    softplus: bool
    has_d: bool
    has_z: bool
    has_reset: bool
    shared_delta: bool
    dense: bool


@dataclass(frozen=True)
class Plan:
    """A configuration, and the spans into which the length is cut over blocks."""

    shape: Shape
    configuration: Configuration
    spans: int
    span_length: int

    @property
    def blocks_per_group(self) -> int:
        """Blocks of threads along the channels of a group."""
        return -(-self.shape.channels_per_group // self.configuration.channels)

    def blocks(self, spans: int) -> int:
        """Blocks of threads of a launch over the first `spans` spans."""
        return self.shape.sequences * self.shape.groups * self.blocks_per_group * spans

    @property
    def tiles_per_span(self) -> int:
        """Tiles of the longest span."""
        return -(-self.span_length // self.configuration.tile)

    def sizes(self, spans: int) -> tuple[int, ...]:
        """`Sizes` of place.cuh, for a launch over the first `spans` spans."""
        shape = self.shape
        return (
            shape.rows,
            shape.length,
            shape.channels,
            shape.states,
            shape.groups,
            shape.channels_per_group,
            self.blocks_per_group,
            self.spans,
            spans,
            self.span_length,
        )


def states_over_threads(states: int) -> tuple[int, int]:
    """States of a channel that one thread holds, and threads of a channel: powers of two."""
    if not 1 <= states <= MAX_STATES:
        raise InputError(
            f"A has {states} states a channel; on a GPU it should have 1 to {MAX_STATES}"
        )
    padded = 1 << (states - 1).bit_length()
    lanes = min(padded, 4) if padded <= 16 else min(padded // 4, WARP)
    return padded // lanes, lanes


def tile_steps(padded_states: int) -> int:
    """Time steps of a tile: fewer where B and C take more shared memory."""
    return 32 if padded_states <= 32 else 16 if padded_states <= 128 else 8


def configuration_of(traits: Traits) -> Configuration:
    """A block of about BLOCK_THREADS threads, along states and channels."""
    shape = traits.shape
    per_thread, lanes = states_over_threads(shape.states)
    least = max(WARP // lanes, 4)
    wanted = -(-shape.channels_per_group // least) * least
    channels = min(max(BLOCK_THREADS // lanes, least), wanted)
    tile = tile_steps(per_thread * lanes)
    return Configuration(
        dtype=traits.dtype,
        states=shape.states,
        states_per_thread=per_thread,
        state_lanes=lanes,
        state_stride=min(2, WARP // lanes),
        channels=channels,
        steps=min(tile, 8 if traits.dtype == torch.float64 else max(64 // per_thread, 8)),
        tile=tile,
        vector=traits.vector,
        state_vector=traits.state_vector,
        blocks_per_processor=(
            1 if traits.dtype == torch.float64 else max(1, RESIDENT_THREADS // (lanes * channels))
        ),
        softplus=traits.softplus,
        has_d=traits.has_d,
        has_z=traits.has_z,
        has_reset=traits.has_reset,
        shared_delta=traits.shared_delta,
        dense=traits.dense,
    )


@cache
def plan_of(traits: Traits, processors: int, cutting: Cutting) -> Plan:
    """The length stays whole where blocks without cutting it fill the multiprocessors."""
    shape, configuration = traits.shape, configuration_of(traits)
    whole = Plan(shape, configuration, 1, shape.length)
    threads = whole.blocks(1) * configuration.threads
    missing = processors * RESIDENT_THREADS // threads
    if missing <= 1:
        return whole
    return cut(whole, max(1, min(missing * cutting.waves, shape.length // cutting.min_span)))


def cut(plan: Plan, spans: int) -> Plan:
    """The plan with about `spans` spans of whole tiles."""
    tile = plan.configuration.tile
    length = -(-plan.shape.length // spans)
    if spans > 1:
        length = -(-length // tile) * tile
    return replace(plan, spans=-(-plan.shape.length // length), span_length=length)

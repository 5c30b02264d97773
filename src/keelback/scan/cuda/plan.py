"""How a scan is cut: states over threads, channels over blocks, and time over both if need be."""

from dataclasses import dataclass, replace
from functools import cache

import torch

from keelback.errors import InputError
from keelback.scan._operands import ScanSizes
from keelback.scan.cuda.configuration import WARP, Configuration

MAX_STATES = 256
#: Threads a block aims at, and threads that keep a multiprocessor busy.
BLOCK_THREADS = 128
RESIDENT_THREADS = 384


@dataclass(frozen=True)
class Cutting:
    """How a pass is cut over threads.

    A thread holds at least `states` states of a channel, where there are as many; half of that,
    where spans would otherwise be shorter than `short_span`. The length is cut into spans that are
    not shorter than `min_span`, for about `waves` times the threads that the multiprocessors hold;
    it stays whole where fewer than `least_spans` would fill them, or be there.
    """

    states: int
    min_span: int
    waves: int
    least_spans: int
    short_span: int = 0


#: Much of a thread's work does not depend on how many states it holds. Cutting the length costs the
#: forward pass a run through the outputs again, as far as a state reaches, and the backward pass
#: little.
FORWARD = Cutting(states=2, min_span=512, waves=1, least_spans=4)
BACKWARD = Cutting(states=2, min_span=64, waves=1, least_spans=2, short_span=128)


@dataclass(frozen=True)
class Traits:
    """All that a plan depends on."""

    sizes: ScanSizes
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
class CudaPlan:
    """A configuration, and the spans into which the length is cut over blocks."""

    sizes: ScanSizes
    configuration: Configuration
    spans: int
    span_length: int

    @property
    def blocks_per_group(self) -> int:
        """Blocks of threads along the channels of a group."""
        return -(-self.sizes.channels_per_group // self.configuration.channels)

    @property
    def blocks(self) -> int:
        """Blocks of threads of a launch."""
        return self.sizes.sequences * self.sizes.groups * self.blocks_per_group * self.spans

    @property
    def tiles_per_span(self) -> int:
        """Tiles of the longest span."""
        return -(-self.span_length // self.configuration.tile)

    @property
    def numbers(self) -> tuple[int, ...]:
        """`Sizes` of place.cuh."""
        sizes = self.sizes
        return (
            sizes.rows,
            sizes.length,
            sizes.channels,
            sizes.states,
            sizes.groups,
            sizes.channels_per_group,
            self.blocks_per_group,
            self.spans,
            self.span_length,
        )


def states_over_threads(states: int, least: int) -> tuple[int, int]:
    """States of a channel that one thread holds, and threads of a channel: powers of two.

    A thread holds at least `least` states, where there are as many.
    """
    if not 1 <= states <= MAX_STATES:
        raise InputError(
            f"A has {states} states per channel; on a GPU it should have 1 to {MAX_STATES}"
        )
    padded = 1 << (states - 1).bit_length()
    lanes = min(padded, 4) if padded <= 16 else min(padded // 4, WARP)
    lanes = min(lanes, max(padded // least, 1))
    return padded // lanes, lanes


def tile_steps(padded_states: int) -> int:
    """Time steps of a tile: fewer where B and C take more shared memory."""
    return 32 if padded_states <= 32 else 16 if padded_states <= 128 else 8


def configuration_of(traits: Traits, cutting: Cutting) -> Configuration:
    """A block of about BLOCK_THREADS threads, along states and channels."""
    sizes = traits.sizes
    per_thread, lanes = states_over_threads(sizes.states, cutting.states)
    least = max(WARP // lanes, 4)
    wanted = -(-sizes.channels_per_group // least) * least
    channels = min(max(BLOCK_THREADS // lanes, least), wanted)
    tile = tile_steps(per_thread * lanes)
    return Configuration(
        dtype=traits.dtype,
        states=sizes.states,
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
def plan_of(traits: Traits, processors: int, cutting: Cutting) -> CudaPlan:
    """The length stays whole where it would make few spans, or few would fill the multiprocessors.

    Else it is cut so that whole spans fill them: the last one, which is shorter, finds room where
    another ends.
    """
    sizes, configuration = traits.sizes, configuration_of(traits, cutting)
    threads = CudaPlan(sizes, configuration, 1, sizes.length).blocks * configuration.threads
    resident = processors * RESIDENT_THREADS
    most_spans = sizes.length // cutting.min_span
    if min(most_spans, resident // max(threads, 1)) < cutting.least_spans:
        return cut(sizes, configuration, sizes.length)
    filling = -(-sizes.length * threads // (resident * cutting.waves))
    if filling < cutting.short_span and cutting.states > 1:
        return plan_of(traits, processors, replace(cutting, states=cutting.states // 2))
    return cut(sizes, configuration, max(filling, -(-sizes.length // most_spans)))


def cut(sizes: ScanSizes, configuration: Configuration, span_length: int) -> CudaPlan:
    """A plan with spans of about this length: of whole tiles, except the last."""
    if span_length < sizes.length:
        span_length = -(-span_length // configuration.tile) * configuration.tile
    span_length = min(span_length, sizes.length)
    return CudaPlan(sizes, configuration, -(-sizes.length // span_length), span_length)

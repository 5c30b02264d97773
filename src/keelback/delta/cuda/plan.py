"""How a delta rule is cut for a GPU, and which kernels run it."""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from keelback.compiled.cuda_card import Card
from keelback.compiled.cuda_tiles import BLOCK_OF_TILE
from keelback.delta._operands import DeltaSizes
from keelback.delta.cuda.configuration import (
    WARPS,
    GradientsChannelsConfiguration,
    GradientsConfiguration,
    InsideChannelsConfiguration,
    InsideConfiguration,
    Tiles,
    WalkConfiguration,
)

#: Steps of a chunk in half precision and in float32, whose tiles are three times as large; and
#: where blocks have too little shared memory for chunks of 64.
CHUNK, CHUNK_OF_FLOATS, SHORT_CHUNK = 64, 32, 32
#: Values of a block that walks: fewer, where half of the processors would have none.
VALUE_TILE, NARROW_TILE = 64, 32
#: Keys and values of a head for which there are kernels: a warp has its states in registers.
WIDEST_KEY, WIDEST_VALUE = 128, 256
#: Keys of products by warpgroups.
COLUMNS_OF_GROUPS = (64, 128)
_MOST_STAGES = 3
#: Where walks leave half of the processors idle: segments of the length, of so many chunks each or
#: more. One is walked through while the chunks of the next are prepared on the other processors.
SEGMENTS, _CHUNKS_OF_SEGMENT = 4, 9
#: Bytes that each block of a processor needs beside its own.
_RESERVED = 1024

#: By whether each key channel has its own decay.
_KERNELS = {
    False: (InsideConfiguration, GradientsConfiguration),
    True: (InsideChannelsConfiguration, GradientsChannelsConfiguration),
}

Staged = TypeVar("Staged", WalkConfiguration, GradientsConfiguration)


@dataclass(frozen=True)
class Traits:
    """All that a plan depends on beside the sizes."""

    dtype: torch.dtype
    decay_dtype: torch.dtype
    beta_dtype: torch.dtype
    planes: int
    normalise: bool
    has_reset: bool
    by_channel: bool = False


@dataclass(frozen=True)
class Plan:
    """The kernels of a delta rule."""

    tiles: Tiles
    inside: InsideConfiguration
    inside_for_gradients: InsideConfiguration
    ahead: WalkConfiguration
    again: WalkConfiguration
    back: WalkConfiguration
    gradients: GradientsConfiguration
    segments: int

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block of whichever kernel needs most."""
        kernels = (self.inside, self.inside_for_gradients, self.ahead, self.again, self.back)
        return max(one.shared_bytes for one in (*kernels, self.gradients))


def plan_of(sizes: DeltaSizes, traits: Traits, card: Card) -> Plan | None:
    """The kernels for these sizes, or None where there are none.

    There are none for float64, for keys that are not cut into whole tiles, for heads that are too
    wide for a warp's registers, and where a block's shared memory is too small; for decays per key
    channel, none for float32. A card whose blocks have less of it takes fewer values at a time, and
    then shorter chunks.
    """
    half = traits.dtype in (torch.bfloat16, torch.float16)
    if not card.multiplies or not (half or traits.dtype == torch.float32):
        return None
    if traits.by_channel and not half:
        return None
    unit = 32 if half else 64
    if sizes.key % unit or sizes.key > WIDEST_KEY:
        return None
    if sizes.value % 8 or sizes.value > WIDEST_VALUE:
        return None
    width, chunk = VALUE_TILE, CHUNK if half else CHUNK_OF_FLOATS
    wide = half and card.wide and sizes.key in COLUMNS_OF_GROUPS
    blocks = sizes.batch * sizes.heads * -(-sizes.value // width)
    few = sizes.value <= NARROW_TILE or 2 * blocks <= card.processors
    if half and not wide and few:
        width = NARROW_TILE
    cuts = [(chunk, width, wide)]
    cuts += [(c, w, False) for c in (chunk, SHORT_CHUNK) for w in (VALUE_TILE, NARROW_TILE)]
    plans = (_plan_in(sizes, traits, card, *cut) for cut in cuts)
    return next((plan for plan in plans if plan.shared_bytes <= card.shared_bytes), None)


def _plan_in(
    sizes: DeltaSizes, traits: Traits, card: Card, chunk: int, width: int, wide: bool
) -> Plan:
    """The kernels by chunks of so many steps, and so many values at a time."""
    half = traits.dtype != torch.float32
    tiles = Tiles(
        traits.dtype,
        chunk,
        sizes.key,
        width,
        -(-sizes.value // width),
        traits.planes,
        wide,
        traits.by_channel,
    )
    decay, beta = traits.decay_dtype, traits.beta_dtype
    of_inside, of_gradients = _KERNELS[traits.by_channel]
    inside, inside_for_gradients = (
        _crowded(of_inside(tiles, decay, beta, traits.normalise, traits.has_reset, gradients), card)
        for gradients in (False, True)
    )
    of_groups = traits.dtype if sizes.heads_per_group == 1 else torch.float32
    at_once = VALUE_TILE if width == VALUE_TILE and tiles.values % VALUE_TILE == 0 else width
    # Four parts of the keys, which warpgroups multiply by 32 or more.
    unit_of_parts = 4 * BLOCK_OF_TILE * (2 if wide else 1)
    split = half and at_once == VALUE_TILE and sizes.key % unit_of_parts == 0
    split = split and (traits.by_channel or not wide)
    # A warp has 16 steps and 16 values or more.
    warps = min(2 * WARPS if split else WARPS, chunk * at_once // BLOCK_OF_TILE**2)
    gradients = _staged(
        of_gradients(
            tiles,
            decay,
            beta,
            of_groups,
            traits.normalise,
            traits.has_reset,
            width=at_once,
            warps=warps,
            stages=1,
        ),
        card,
        min(2, tiles.values // at_once),
    )
    walks = sizes.batch * sizes.heads * tiles.value_tiles
    many = sizes.length >= SEGMENTS * _CHUNKS_OF_SEGMENT * tiles.chunk
    segments = SEGMENTS if wide and many and 2 * walks <= card.processors else 1
    ahead, again, back = (
        _staged(WalkConfiguration(tiles, back, outputs, stages=2), card, _MOST_STAGES)
        for back, outputs in ((False, True), (False, False), (True, False))
    )
    return Plan(tiles, inside, inside_for_gradients, ahead, again, back, gradients, segments)


def _crowded(configuration: InsideConfiguration, card: Card) -> InsideConfiguration:
    """With as many blocks to a processor as there are registers and shared memory for."""
    each = configuration.shared_bytes + _RESERVED
    at_once = min(configuration.most_blocks, (card.shared_bytes + _RESERVED) // each)
    return replace(configuration, blocks_per_processor=max(1, at_once))


def _staged(configuration: Staged, card: Card, most: int) -> Staged:
    """With as many stages as there is shared memory for, and those that it has at least."""
    for stages in range(most, configuration.stages, -1):
        found = replace(configuration, stages=stages)
        if found.shared_bytes <= card.shared_bytes:
            return found
    return configuration

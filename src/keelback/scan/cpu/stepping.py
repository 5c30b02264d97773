"""One step of a range of blocks, as in decoding.

A scan turns states into lanes of channels and back, which pays over many steps. Over one step the
states are all there is to read and write: here lanes are the states of one channel, as they lie in
memory.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from typing import Any

import numpy as np

from keelback.compiled import LANES
from keelback.compiled.exponentials import LOG2_E, exp2
from keelback.compiled.jit import entry_kernel, kernel
from keelback.compiled.simd import (
    fma,
    lanes_between,
    load_at,
    load_masked_at,
    mul,
    splat,
    store_at,
    store_masked_at,
    sum_lanes,
    where,
)
from keelback.scan.cpu.blocks import discretise, fill, place, read, segments_of, write
from keelback.scan.cpu.forward import NARROW_TILES, Constants, Tiles, finish_output

# Behind the tiles lie delta_bias and D.
_ROWS = NARROW_TILES + 2


@kernel
def advance_channel(p, scratch, step, driven, rates, before, after, b, c):
    """The states of one channel a step ahead, at these addresses; returns C . h."""
    zero = splat(scratch.dtype.type(0))
    step, driven, y = splat(step), splat(driven), zero
    log2_e = splat(scratch.dtype.type(LOG2_E))
    whole = p.states // LANES * LANES
    for n in range(0, whole, LANES):
        at = n * scratch.itemsize
        decay = exp2(mul(step, mul(load_at(scratch, rates + at), log2_e)))
        h = fma(decay, load_at(scratch, before + at), mul(driven, load_at(scratch, b + at)))
        store_at(after + at, h)
        y = fma(h, load_at(scratch, c + at), y)
    if whole < p.states:
        at, mask = whole * scratch.itemsize, lanes_between(0, p.states - whole)
        decay = exp2(mul(step, mul(load_masked_at(scratch, rates + at, mask), log2_e)))
        driving = mul(driven, load_masked_at(scratch, b + at, mask))
        h = fma(decay, load_masked_at(scratch, before + at, mask), driving)
        store_masked_at(after + at, h, mask)
        # Lanes without a state may hold anything where the step overflows.
        y = fma(where(mask, h, zero), load_masked_at(scratch, c + at, mask), y)
    return sum_lanes(y)


@kernel
def advance_block(p, scratch, block, tiles):
    """The states of a block's channels; C . h to the tile of y."""
    first, last = segments_of(p, block)
    for segment in range(first, last):
        replica, row, group, channel, width = place(p, segment)
        lane = (segment - first) * p.lanes_per_segment
        rates = p.A + replica * p.A_replica + channel * p.A_lane
        before = p.initial + replica * p.initial_replica + row * p.initial_row
        before += channel * p.initial_lane
        after = p.last + replica * p.last_replica + row * p.last_row + channel * p.last_lane
        b = p.B + replica * p.B_replica + row * p.B_row + group * p.B_group
        c = p.C + replica * p.C_replica + row * p.C_row + group * p.C_group
        for i in range(width):
            scratch[tiles.y + lane + i] = advance_channel(
                p, scratch, scratch[tiles.delta + lane + i], scratch[tiles.driven + lane + i],
                rates + i * p.A_lane, before + i * p.initial_lane, after + i * p.last_lane, b, c,
            )  # fmt: skip


@entry_kernel
def step_blocks(parameters, scratch, start_block, stop_block):
    """Advance the blocks `start_block` to `stop_block`, with `step_scratch()` floats of scratch.

    The states of a channel are neighbours in A, B, C and both states.
    """
    p = parameters[0]
    none: Any = np.int64(0)  # Numba would compile `read` anew for each literal.
    one: Any = np.int64(1)
    tile: Any = np.int64(LANES)
    tiles = Tiles(
        none, tile, 2 * tile, 3 * tile, 4 * tile, 5 * tile, 6 * tile, none, none
    )  # fmt: skip
    constants = Constants(none, NARROW_TILES * tile, (NARROW_TILES + 1) * tile)
    fill(scratch, none, _ROWS, 0.0)
    for block in range(start_block, stop_block):
        read(p, scratch, block, tiles.u, one, p.u, p.u_replica, p.u_row, none, p.u_lane)
        read(
            p, scratch, block, tiles.raw, one,
            p.delta, p.delta_replica, p.delta_row, none, p.delta_lane,
        )  # fmt: skip
        read(p, scratch, block, tiles.gate, one, p.z, p.z_replica, p.z_row, none, p.z_lane)
        bias, skip = constants.bias, constants.skip
        read(p, scratch, block, bias, one, p.bias, p.bias_replica, none, none, p.bias_lane)
        read(p, scratch, block, skip, one, p.D, p.D_replica, none, none, p.D_lane)
        discretise(p, scratch, one, tiles.raw, bias, tiles.u, tiles.delta, tiles.driven)
        advance_block(p, scratch, block, tiles)
        finish_output(p, scratch, one, constants, tiles)
        write(p, scratch, block, tiles.y, one, p.y, p.y_replica, p.y_row, none, p.y_lane)


def step_scratch() -> int:
    """Floats of scratch memory that `step_blocks` needs."""
    return _ROWS * LANES

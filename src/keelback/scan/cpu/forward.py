"""The forward scan of a range of blocks.

Each block keeps its state, one vector of `LANES` channels a state, in scratch memory and walks
along the sequence chunk by chunk: read the chunk's operands into tiles, run the recurrence, write
the outputs. A few neighbouring blocks walk side by side, because their operands are neighbours in
memory.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from typing import NamedTuple

import numpy as np

from keelback.compiled import LANES
from keelback.compiled.exponentials import LOG2_E, exp2, logistic
from keelback.compiled.jit import entry_kernel, kernel
from keelback.compiled.simd import (
    fma,
    load,
    mul,
    positive,
    scalar_at,
    splat,
    store,
    where,
)
from keelback.scan.cpu.blocks import (
    discretise,
    fill,
    place,
    read,
    read_resets,
    write,
)
from keelback.scan.cpu.plan import SIDE_BY_SIDE
from keelback.scan.cpu.quads import read_states, recur_quads


class Constants(NamedTuple):
    """Where a block keeps what does not change along the sequence: A log2(e), delta_bias and D."""

    rates: int
    bias: int
    skip: int


class Tiles(NamedTuple):
    """Where the operands of a chunk lie, one row of lanes a time step.

    `delta` holds the step sizes and `driven` their products with u; `wide_b` and `wide_c` hold B
    and C lane by lane, for blocks of several segments.
    """

    u: int
    raw: int
    delta: int
    driven: int
    gate: int
    y: int
    keep: int
    wide_b: int
    wide_c: int


# Rows of lanes that `Constants` take beside the rates, and tiles beside the wide ones.
CONSTANT_ROWS = 2
NARROW_TILES = 7


@kernel
def lay_constants(p, start):
    """Lay a block's constants out in scratch memory from element `start` on."""
    bias = start + p.states * LANES
    return Constants(start, bias, bias + LANES)


@kernel
def lay_tiles(p, start):
    """Lay the tiles of a chunk out in scratch memory from element `start` on."""
    tile = p.chunk * LANES
    wide = start + NARROW_TILES * tile
    return Tiles(
        start,
        start + tile,
        start + 2 * tile,
        start + 3 * tile,
        start + 4 * tile,
        start + 5 * tile,
        start + 6 * tile,
        wide,
        wide + p.states * tile,
    )


@kernel
def read_constants(p, scratch, block, constants):
    """Read A, times log2(e), delta_bias and D."""
    none, one = np.int64(0), np.int64(1)  # Numba would compile `read` anew for each literal.
    rates, bias, skip = constants.rates, constants.bias, constants.skip
    fill(scratch, rates, p.states + 2, 0.0)
    read(p, scratch, block, rates, p.states, p.A, p.A_replica, none, p.A_state, p.A_lane)
    read(p, scratch, block, bias, one, p.bias, p.bias_replica, none, none, p.bias_lane)
    read(p, scratch, block, skip, one, p.D, p.D_replica, none, none, p.D_lane)
    log2_e = splat(scratch.dtype.type(LOG2_E))
    for n in range(p.states):
        store(scratch, rates + n * LANES, mul(load(scratch, rates + n * LANES), log2_e))


@kernel
def read_chunk(p, scratch, block, start, steps, constants, tiles):
    """Read the operands of the time steps from `start` on; tells whether the state is reset."""
    at = p.u + start * p.u_time
    read(p, scratch, block, tiles.u, steps, at, p.u_replica, p.u_row, p.u_time, p.u_lane)
    at = p.delta + start * p.delta_time
    read(
        p, scratch, block, tiles.raw, steps,
        at, p.delta_replica, p.delta_row, p.delta_time, p.delta_lane,
    )  # fmt: skip
    if p.z != 0:
        at = p.z + start * p.z_time
        read(p, scratch, block, tiles.gate, steps, at, p.z_replica, p.z_row, p.z_time, p.z_lane)
    at = p.B + start * p.B_time
    read_states(
        p, scratch, block, tiles.wide_b, steps,
        at, p.B_replica, p.B_row, p.B_time, p.B_group, p.B_state,
    )  # fmt: skip
    at = p.C + start * p.C_time
    read_states(
        p, scratch, block, tiles.wide_c, steps,
        at, p.C_replica, p.C_row, p.C_time, p.C_group, p.C_state,
    )  # fmt: skip
    discretise(p, scratch, steps, tiles.raw, constants.bias, tiles.u, tiles.delta, tiles.driven)
    return read_resets(p, scratch, block, tiles.keep, start, steps)


@kernel
def recur(p, scratch, block, start, steps, resets, constants, tiles, state):
    """Carry the state through a chunk, and write C_t . h_t to the tile of y."""
    states, packed = p.states, p.packed != 0
    by_state_b, by_state_c = p.B_state, p.C_state
    replica, row, group, _, _ = place(p, block * p.segments_per_block)
    row_b = p.B + replica * p.B_replica + row * p.B_row + group * p.B_group + start * p.B_time
    row_c = p.C + replica * p.C_replica + row * p.C_row + group * p.C_group + start * p.C_time
    zero = splat(scratch.dtype.type(0.0))
    for t in range(steps):
        if resets:
            kept = positive(load(scratch, tiles.keep + t * LANES))
            for n in range(states):
                h = load(scratch, state + n * LANES)
                store(scratch, state + n * LANES, where(kept, h, zero))
        step = load(scratch, tiles.delta + t * LANES)
        driven = load(scratch, tiles.driven + t * LANES)
        y = zero
        for n in range(states):
            if packed:
                b = load(scratch, tiles.wide_b + (t * states + n) * LANES)
                c = load(scratch, tiles.wide_c + (t * states + n) * LANES)
            else:
                b = splat(scalar_at(scratch, row_b + t * p.B_time + n * by_state_b))
                c = splat(scalar_at(scratch, row_c + t * p.C_time + n * by_state_c))
            decay = exp2(mul(step, load(scratch, constants.rates + n * LANES)))
            h = fma(decay, load(scratch, state + n * LANES), mul(driven, b))
            store(scratch, state + n * LANES, h)
            y = fma(h, c, y)
        store(scratch, tiles.y + t * LANES, y)


@kernel
def finish_output(p, scratch, steps, constants, tiles):
    """Turn the tile of y into (y + D u) silu(z)."""
    skip = load(scratch, constants.skip)
    for t in range(steps):
        y = load(scratch, tiles.y + t * LANES)
        if p.D != 0:
            y = fma(skip, load(scratch, tiles.u + t * LANES), y)
        if p.z != 0:
            z = load(scratch, tiles.gate + t * LANES)
            y = mul(y, mul(z, logistic(z)))
        store(scratch, tiles.y + t * LANES, y)


@kernel
def forward_chunk(p, scratch, block, index, constants, tiles, state):
    """Scan one chunk of one block."""
    start = index * p.chunk
    steps = min(p.chunk, p.length - start)
    if p.chunk_states != 0:
        at = p.chunk_states + index * p.chunk_states_chunk
        write(
            p, scratch, block, state, p.states, at, p.chunk_states_replica,
            p.chunk_states_row, p.chunk_states_state, p.chunk_states_lane,
        )  # fmt: skip
    resets = read_chunk(p, scratch, block, start, steps, constants, tiles)
    if p.quads:
        none = np.int64(0)
        recur_quads(p, scratch, steps, resets, constants, tiles, state, none, none)
    else:
        recur(p, scratch, block, start, steps, resets, constants, tiles, state)
    if p.D != 0 or p.z != 0:
        finish_output(p, scratch, steps, constants, tiles)
    at = p.y + start * p.y_time
    write(p, scratch, block, tiles.y, steps, at, p.y_replica, p.y_row, p.y_time, p.y_lane)


@entry_kernel
def forward_blocks(parameters, scratch, start_block, stop_block):
    """Scan the blocks `start_block` to `stop_block`, with `forward_scratch` floats of scratch."""
    p = parameters[0]
    member = (2 * p.states + CONSTANT_ROWS) * LANES
    to_state = (p.states + CONSTANT_ROWS) * LANES
    tiles = lay_tiles(p, SIDE_BY_SIDE * member)
    fill(scratch, tiles.u, NARROW_TILES * p.chunk, 0.0)
    for first in range(start_block, stop_block, SIDE_BY_SIDE):
        last = min(first + SIDE_BY_SIDE, stop_block)
        for block in range(first, last):
            own = (block - first) * member
            read_constants(p, scratch, block, lay_constants(p, own))
            fill(scratch, own + to_state, p.states, 0.0)
            read(
                p, scratch, block, own + to_state, p.states,
                p.initial, p.initial_replica, p.initial_row, p.initial_state, p.initial_lane,
            )  # fmt: skip
        for index in range(p.chunks):
            for block in range(first, last):
                own = (block - first) * member
                constants = lay_constants(p, own)
                forward_chunk(p, scratch, block, index, constants, tiles, own + to_state)
        for block in range(first, last):
            own = (block - first) * member
            write(
                p, scratch, block, own + to_state, p.states,
                p.last, p.last_replica, p.last_row, p.last_state, p.last_lane,
            )  # fmt: skip


def forward_scratch(states: int, chunk: int) -> int:
    """Floats of scratch memory that `forward_blocks` needs."""
    members = SIDE_BY_SIDE * (2 * states + CONSTANT_ROWS)
    return LANES * (members + (NARROW_TILES + 2 * states) * chunk)

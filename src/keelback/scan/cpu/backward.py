"""The backward scan of a range of units.

Each block walks its chunks from the last to the first. Within a chunk it recomputes the states
forward from the stored checkpoint, keeping them and the decays in scratch memory, and then
carries the adjoint of the state, g_t = dL/dh_t, backward:

    g_t      = C_t dy_t + exp(delta_{t+1} A) g_{t+1}
    dC_t     = sum over channels of dy_t h_t
    dB_t     = sum over channels of delta_t u_t g_t
    du_t     = delta_t (g_t . B_t) + D dy_t
    ddelta_t = u_t (g_t . B_t) + A . (g_t h_{t-1} exp(delta_t A))
    dA       = sum over t of delta_t g_t h_{t-1} exp(delta_t A)
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from typing import NamedTuple

import numpy as np

from keelback.compiled import LANES
from keelback.compiled.exponentials import LN_2, exp2, logistic, softplus_slope
from keelback.compiled.jit import entry_kernel, kernel
from keelback.compiled.simd import (
    add,
    fma,
    load,
    mul,
    positive,
    scalar_at,
    splat,
    store,
    store_scalar_at,
    sum_lanes,
    where,
)
from keelback.scan.cpu.adjoint import carry_state_back, finish_step_back
from keelback.scan.cpu.blocks import (
    belonging,
    fill,
    place,
    read,
    sum_segments,
    write,
    write_groups,
)
from keelback.scan.cpu.forward import (
    CONSTANT_ROWS,
    NARROW_TILES,
    lay_constants,
    lay_tiles,
    read_chunk,
    read_constants,
)
from keelback.scan.cpu.plan import SIDE_BY_SIDE
from keelback.scan.cpu.quads import (
    carry_back_quads,
    recur_quads,
    write_states,
)


class Sums(NamedTuple):
    """Where a block keeps what it carries along the sequence, and which lanes belong to it."""

    adjoint: int
    drates: int
    dbias: int
    dskip: int
    belongs: int


class History(NamedTuple):
    """Where the states before and after each step of a chunk, the decays, and dy lie."""

    states: int
    decays: int
    dy: int


SUM_ROWS = 3


@kernel
def lay_sums(p, start):
    """Lay a block's sums out in scratch memory from element `start` on."""
    narrow = start + 2 * p.states * LANES
    return Sums(start, start + p.states * LANES, narrow, narrow + LANES, narrow + 2 * LANES)


@kernel
def lay_history(p, start):
    """Lay the history of a chunk out in scratch memory from element `start` on."""
    decays = start + (p.chunk + 1) * p.states * LANES
    return History(start, decays, decays + p.chunk * p.states * LANES)


@kernel
def recompute(p, scratch, block, start, steps, resets, constants, tiles, history):
    """Run a chunk forward, keeping its states and decays, and write C_t . h_t to the tile of y."""
    states, packed = p.states, p.packed != 0
    by_state_b, by_state_c = p.B_state, p.C_state
    replica, row, group, _, _ = place(p, block * p.segments_per_block)
    row_b = p.B + replica * p.B_replica + row * p.B_row + group * p.B_group + start * p.B_time
    row_c = p.C + replica * p.C_replica + row * p.C_row + group * p.C_group + start * p.C_time
    zero = splat(scratch.dtype.type(0.0))
    for t in range(steps):
        step = load(scratch, tiles.delta + t * LANES)
        driven = load(scratch, tiles.driven + t * LANES)
        y = zero
        for n in range(states):
            here = (t * states + n) * LANES
            after = history.states + here + states * LANES
            if packed:
                b = load(scratch, tiles.wide_b + here)
                c = load(scratch, tiles.wide_c + here)
            else:
                b = splat(scalar_at(scratch, row_b + t * p.B_time + n * by_state_b))
                c = splat(scalar_at(scratch, row_c + t * p.C_time + n * by_state_c))
            decay = exp2(mul(step, load(scratch, constants.rates + n * LANES)))
            h = load(scratch, history.states + here)
            if resets:
                h = where(positive(load(scratch, tiles.keep + t * LANES)), h, zero)
            h = fma(decay, h, mul(driven, b))
            store(scratch, history.decays + here, decay)
            store(scratch, after, h)
            y = fma(h, c, y)
        store(scratch, tiles.y + t * LANES, y)


@kernel
def ungate(scratch, steps, constants, tiles, dy):
    """Turn dy into the gradient before the gate silu(z), and the tile of z into dz."""
    one = splat(scratch.dtype.type(1.0))
    minus = splat(scratch.dtype.type(-1.0))
    skip = load(scratch, constants.skip)
    for t in range(steps):
        z = load(scratch, tiles.gate + t * LANES)
        upstream = load(scratch, dy + t * LANES)
        y = fma(skip, load(scratch, tiles.u + t * LANES), load(scratch, tiles.y + t * LANES))
        sigma = logistic(z)
        slope = mul(sigma, fma(z, fma(sigma, minus, one), one))
        store(scratch, tiles.gate + t * LANES, mul(mul(upstream, y), slope))
        store(scratch, dy + t * LANES, mul(upstream, mul(z, sigma)))


@kernel
def first_of_unit(p, block, split):
    """Whether no block before this one adds to the same partial sum over channels."""
    return block % p.blocks_per_group == split * p.blocks_per_unit


@kernel
def write_sum_at(scratch, address, vector, fresh):
    """Write the sum of a vector's lanes to one float in memory, or add it unless `fresh`."""
    total = sum_lanes(vector)
    if not fresh:
        total += scalar_at(scratch, address)
    store_scalar_at(address, total)


@kernel
def carry_back(p, scratch, block, split, start, steps, resets, constants, tiles, history, sums):
    """Carry the adjoint back through a chunk.

    Leaves du in the tile of u and ddelta in that of the raw delta. The gradients of B and C are
    written to memory, added there to those of blocks before where the block is not the first of
    its unit, or, for a block of several segments, left in the tiles of B and C.
    """
    states, packed = p.states, p.packed != 0
    by_state_b, by_state_c = p.B_state, p.C_state
    by_state_db, by_state_dc = p.dB_state, p.dC_state
    replica, row, group, _, _ = place(p, block * p.segments_per_block)
    row_b = p.B + replica * p.B_replica + row * p.B_row + group * p.B_group + start * p.B_time
    row_c = p.C + replica * p.C_replica + row * p.C_row + group * p.C_group + start * p.C_time
    row_db = p.dB + replica * p.dB_replica + row * p.dB_row + group * p.dB_group
    row_dc = p.dC + replica * p.dC_replica + row * p.dC_row + group * p.dC_group
    row_db += split * p.dB_partial + start * p.dB_time
    row_dc += split * p.dC_partial + start * p.dC_time
    zero = splat(scratch.dtype.type(0.0))
    ln_2 = splat(scratch.dtype.type(LN_2))
    everywhere = positive(splat(scratch.dtype.type(1.0)))
    belongs = positive(load(scratch, sums.belongs))
    fresh = first_of_unit(p, block, split)
    for t in range(steps - 1, -1, -1):
        step = load(scratch, tiles.delta + t * LANES)
        driven = load(scratch, tiles.driven + t * LANES)
        dy = load(scratch, history.dy + t * LANES)
        kept = everywhere
        if resets:
            kept = positive(load(scratch, tiles.keep + t * LANES))
        dinput = zero
        dexponent = zero
        for n in range(states):
            here = (t * states + n) * LANES
            if packed:
                b = load(scratch, tiles.wide_b + here)
                c = load(scratch, tiles.wide_c + here)
            else:
                b = splat(scalar_at(scratch, row_b + t * p.B_time + n * by_state_b))
                c = splat(scalar_at(scratch, row_c + t * p.C_time + n * by_state_c))
            db, dc, dinput, dexponent = carry_state_back(
                scratch, t, n, states, kept, belongs, constants, history, sums,
                step, driven, dy, b, c, dinput, dexponent,
            )  # fmt: skip
            if packed:
                store(scratch, tiles.wide_b + here, sum_segments(p.lanes_per_segment, db))
                store(scratch, tiles.wide_c + here, sum_segments(p.lanes_per_segment, dc))
            else:
                write_sum_at(scratch, row_db + t * p.dB_time + n * by_state_db, db, fresh)
                write_sum_at(scratch, row_dc + t * p.dC_time + n * by_state_dc, dc, fresh)
        u = load(scratch, tiles.u + t * LANES)
        dstep = fma(dexponent, ln_2, mul(dinput, u))
        if p.softplus:
            shifted = add(load(scratch, tiles.raw + t * LANES), load(scratch, constants.bias))
            dstep = mul(dstep, softplus_slope(shifted))
        dstep = where(belongs, dstep, zero)
        finish_step_back(scratch, t, constants, tiles, sums, u, step, dy, dinput, dstep)


@kernel
def write_shared_delta(p, scratch, block, split, start, steps, tile):
    """Write or add the gradient of a step size that all channels share: a sum over them."""
    at = p.ddelta + split * p.ddelta_partial + start * p.ddelta_time
    if p.packed:
        for t in range(steps):
            sums = sum_segments(p.lanes_per_segment, load(scratch, tile + t * LANES))
            store(scratch, tile + t * LANES, sums)
        write_groups(
            p, scratch, block, tile, steps, np.int64(1), at,
            p.ddelta_replica, p.ddelta_row, p.ddelta_time, p.ddelta_partial, np.int64(0),
        )  # fmt: skip
    else:
        replica, row, group, _, _ = place(p, block)
        fresh = first_of_unit(p, block, split)
        at += group * p.splits * p.ddelta_partial + replica * p.ddelta_replica + row * p.ddelta_row
        for t in range(steps):
            write_sum_at(scratch, at + t * p.ddelta_time, load(scratch, tile + t * LANES), fresh)


@kernel
def write_gradients(p, scratch, block, split, start, steps, tiles):
    """Write the gradients that `carry_back` left in the tiles."""
    at = p.du + start * p.du_time
    write(p, scratch, block, tiles.u, steps, at, p.du_replica, p.du_row, p.du_time, p.du_lane)
    if p.shared_delta:
        write_shared_delta(p, scratch, block, split, start, steps, tiles.raw)
    else:
        at = p.ddelta + start * p.ddelta_time
        write(
            p, scratch, block, tiles.raw, steps,
            at, p.ddelta_replica, p.ddelta_row, p.ddelta_time, p.ddelta_lane,
        )  # fmt: skip
    fresh = first_of_unit(p, block, split)
    at = p.dB + split * p.dB_partial + start * p.dB_time
    write_states(
        p, scratch, block, tiles.wide_b, steps,
        at, p.dB_replica, p.dB_row, p.dB_time, p.dB_group, p.dB_state, fresh,
    )  # fmt: skip
    at = p.dC + split * p.dC_partial + start * p.dC_time
    write_states(
        p, scratch, block, tiles.wide_c, steps,
        at, p.dC_replica, p.dC_row, p.dC_time, p.dC_group, p.dC_state, fresh,
    )  # fmt: skip


@kernel
def backward_chunk(p, scratch, block, split, index, constants, tiles, history, sums):
    """Every gradient of one chunk of one block."""
    start = index * p.chunk
    steps = min(p.chunk, p.length - start)
    at = p.chunk_states + index * p.chunk_states_chunk
    read(
        p, scratch, block, history.states, p.states, at, p.chunk_states_replica,
        p.chunk_states_row, p.chunk_states_state, p.chunk_states_lane,
    )  # fmt: skip
    resets = read_chunk(p, scratch, block, start, steps, constants, tiles)
    if p.quads:
        recur_quads(
            p, scratch, steps, resets, constants, tiles,
            history.states, p.states * LANES, history.decays,
        )  # fmt: skip
    else:
        recompute(p, scratch, block, start, steps, resets, constants, tiles, history)
    at = p.dy + start * p.dy_time
    read(p, scratch, block, history.dy, steps, at, p.dy_replica, p.dy_row, p.dy_time, p.dy_lane)
    if p.z != 0:
        ungate(scratch, steps, constants, tiles, history.dy)
        at = p.dz + start * p.dz_time
        write(
            p, scratch, block, tiles.gate, steps,
            at, p.dz_replica, p.dz_row, p.dz_time, p.dz_lane,
        )  # fmt: skip
    if p.quads:
        carry_back_quads(p, scratch, steps, resets, constants, tiles, history, sums)
    else:
        carry_back(p, scratch, block, split, start, steps, resets, constants, tiles, history, sums)
    write_gradients(p, scratch, block, split, start, steps, tiles)


@kernel
def write_sums(p, scratch, block, sums):
    """Write the gradients that are sums along the sequence, and that of the initial state."""
    none, one = np.int64(0), np.int64(1)
    write(
        p, scratch, block, sums.drates, p.states,
        p.dA, p.dA_replica, p.dA_row, p.dA_state, p.dA_lane,
    )  # fmt: skip
    write(p, scratch, block, sums.dskip, one, p.dD, p.dD_replica, p.dD_row, none, p.dD_lane)
    write(
        p, scratch, block, sums.dbias, one,
        p.dbias, p.dbias_replica, p.dbias_row, none, p.dbias_lane,
    )  # fmt: skip
    write(
        p, scratch, block, sums.adjoint, p.states,
        p.dinitial, p.dinitial_replica, p.dinitial_row, p.dinitial_state, p.dinitial_lane,
    )  # fmt: skip


@kernel
def backward_blocks(p, scratch, first_block, stop_block, split):
    """Every gradient of a run of blocks; sums over channels go to the partial sum `split`."""
    to_sums = (p.states + CONSTANT_ROWS) * LANES
    member = to_sums + (2 * p.states + SUM_ROWS) * LANES
    tiles = lay_tiles(p, SIDE_BY_SIDE * member)
    history = lay_history(p, tiles.wide_c + p.chunk * p.states * LANES)
    fill(scratch, tiles.u, NARROW_TILES * p.chunk, 0.0)
    fill(scratch, history.states, p.states, 0.0)
    fill(scratch, history.dy, p.chunk, 0.0)
    for first in range(first_block, stop_block, SIDE_BY_SIDE):
        last = min(first + SIDE_BY_SIDE, stop_block)
        for block in range(first, last):
            own = (block - first) * member
            sums = lay_sums(p, own + to_sums)
            fill(scratch, own, member // LANES, 0.0)
            read_constants(p, scratch, block, lay_constants(p, own))
            belonging(p, scratch, block, sums.belongs)
            read(
                p, scratch, block, sums.adjoint, p.states,
                p.dlast, p.dlast_replica, p.dlast_row, p.dlast_state, p.dlast_lane,
            )  # fmt: skip
        for index in range(p.chunks - 1, -1, -1):
            for block in range(first, last):
                own = (block - first) * member
                constants, sums = lay_constants(p, own), lay_sums(p, own + to_sums)
                backward_chunk(p, scratch, block, split, index, constants, tiles, history, sums)
        for block in range(first, last):
            own = (block - first) * member
            write_sums(p, scratch, block, lay_sums(p, own + to_sums))


@entry_kernel
def backward_units(parameters, scratch, start_unit, stop_unit):
    """Run the units `start_unit` to `stop_unit`, with `backward_scratch` floats of scratch."""
    p = parameters[0]
    if p.packed:
        backward_blocks(p, scratch, start_unit, stop_unit, np.int64(0))
        return
    for unit in range(start_unit, stop_unit):
        group, split = unit // p.splits, unit % p.splits
        first = split * p.blocks_per_unit
        stop = min(first + p.blocks_per_unit, p.blocks_per_group)
        origin = group * p.blocks_per_group
        backward_blocks(p, scratch, origin + first, origin + stop, split)


def backward_scratch(states: int, chunk: int) -> int:
    """Floats of scratch memory that `backward_units` needs."""
    members = SIDE_BY_SIDE * (3 * states + CONSTANT_ROWS + SUM_ROWS)
    history = (2 * chunk + 1) * states + chunk
    return LANES * (members + (NARROW_TILES + 2 * states) * chunk + history)

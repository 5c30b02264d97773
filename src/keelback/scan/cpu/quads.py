"""States by fours, for blocks whose segments are four lanes wide, or of one segment.

One vector holds four states of B or C for each run of four lanes: those of the run's own segment,
or of the one that all runs share. It is spread over the lanes by shuffles where it is used. On the
way back four sums over the lanes of a run are added up together and leave one such vector; where
all runs are of one segment, their vector is added up once more on its way to memory.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from keelback.compiled import LANES
from keelback.compiled.exponentials import LN_2, exp2, softplus_slope
from keelback.compiled.jit import kernel
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
    where,
)
from keelback.scan.cpu.adjoint import carry_state_back, finish_step_back
from keelback.scan.cpu.blocks import (
    four_runs,
    group_addresses,
    next_place,
    place,
    read_groups,
    segments_of,
    write_groups,
)
from keelback.scan.cpu.runs import (
    add_pairs,
    copy_in_4,
    copy_out_4,
    gather_runs,
    repeat_run,
    scatter_runs,
    spread_0,
    spread_1,
    spread_2,
    spread_3,
    sum_runs_to,
)


@kernel
def read_shared_quads(
    p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, by_state
):
    """`read_quads` for a block of one segment."""
    replica, row, group, _, _ = place(p, block)
    source = base + replica * by_replica + row * by_row + group * by_group
    for t in range(steps):
        for n in range(0, p.states, 4):
            at = tile + (t * p.states + n) * (LANES // 4)
            address = source + t * by_step + n * by_state
            if by_state == scratch.itemsize:
                repeat_run(scratch, at, address)
            else:
                for lane in range(LANES):
                    scratch[at + lane] = scalar_at(scratch, address + lane % 4 * by_state)


@kernel
def add_shared_quads(
    p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, fresh
):
    """`write_quads` for a block of one segment: adds to what is there, unless it is `fresh`."""
    replica, row, group, _, _ = place(p, block)
    target = base + replica * by_replica + row * by_row + group * by_group
    for t in range(steps):
        for n in range(0, p.states, 4):
            at = tile + (t * p.states + n) * (LANES // 4)
            sum_runs_to(scratch, at, target + t * by_step + n * scratch.itemsize, fresh)


@kernel
def read_quads(
    p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, by_state
):
    """Read B or C, one row of the tile for each step and four states."""
    if not p.packed:
        read_shared_quads(
            p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, by_state
        )
        return
    first, last = segments_of(p, block)
    if four_runs(p, block, 4, by_state, scratch.itemsize):
        a, b, c, d = group_addresses(p, block, base, by_replica, by_row, by_group)
        for t in range(steps):
            for n in range(0, p.states, 4):
                at = tile + (t * p.states + n) * (LANES // 4)
                ahead = t * by_step + n * by_state
                gather_runs(scratch, at, a + ahead, b + ahead, c + ahead, d + ahead)
        return
    here = place(p, first)
    for segment in range(first, last):
        replica, row, group, _, _ = here
        here = next_place(p, here)
        target = tile + (segment - first) * 4
        source = base + replica * by_replica + row * by_row + group * by_group
        for t in range(steps):
            for n in range(0, p.states, 4):
                at = target + (t * p.states + n) * (LANES // 4)
                address = source + t * by_step + n * by_state
                if by_state == scratch.itemsize:
                    copy_in_4(scratch, at, address)
                else:
                    for i in range(4):
                        scratch[at + i] = scalar_at(scratch, address + i * by_state)


@kernel
def write_quads(
    p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, by_state, fresh
):
    """Write the gradient of B or C from a tile as `read_quads` fills it.

    That of a block of one segment is added to what is there, unless it is `fresh`.
    """
    if not p.packed:
        add_shared_quads(
            p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, fresh
        )
        return
    first, last = segments_of(p, block)
    if four_runs(p, block, 4, by_state, scratch.itemsize):
        a, b, c, d = group_addresses(p, block, base, by_replica, by_row, by_group)
        for t in range(steps):
            for n in range(0, p.states, 4):
                at = tile + (t * p.states + n) * (LANES // 4)
                ahead = t * by_step + n * by_state
                scatter_runs(scratch, at, a + ahead, b + ahead, c + ahead, d + ahead)
        return
    here = place(p, first)
    for segment in range(first, last):
        replica, row, group, _, _ = here
        here = next_place(p, here)
        source = tile + (segment - first) * 4
        target = base + replica * by_replica + row * by_row + group * by_group
        for t in range(steps):
            for n in range(0, p.states, 4):
                at = source + (t * p.states + n) * (LANES // 4)
                address = target + t * by_step + n * by_state
                if by_state == scratch.itemsize:
                    copy_out_4(scratch, at, address)
                else:
                    for i in range(4):
                        store_scalar_at(address + i * by_state, scratch[at + i])


@kernel
def read_states(
    p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, by_state
):
    """Read B or C into its tile, where the block takes it from there."""
    if p.quads:
        read_quads(
            p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, by_state
        )
    elif p.packed:
        read_groups(
            p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, by_state
        )


@kernel
def write_states(
    p, scratch, block, tile, steps, base, by_replica, by_row, by_step, by_group, by_state, fresh
):
    """Write the gradient of B or C, where the block left it in its tile."""
    if p.quads:
        write_quads(
            p, scratch, block, tile, steps,
            base, by_replica, by_row, by_step, by_group, by_state, fresh,
        )  # fmt: skip
    elif p.packed:
        write_groups(
            p, scratch, block, tile, steps, p.states,
            base, by_replica, by_row, by_step, by_group, by_state,
        )  # fmt: skip


@kernel
def advance_state(scratch, rate, before, after, kept, step, driven, b):
    """Carry one state through one step; returns it and its decay.

    It has no branch: Numba would count references to the scratch array around a call that has.
    """
    decay = exp2(mul(step, load(scratch, rate)))
    h = where(kept, load(scratch, before), splat(scratch.dtype.type(0.0)))
    h = fma(decay, h, mul(driven, b))
    store(scratch, after, h)
    return h, decay


@kernel
def recur_quads(p, scratch, steps, resets, constants, tiles, state, by_step, decays):
    """Carry the states through a chunk, and write C_t . h_t to the tile of y.

    The states after a step are written `by_step` elements after those before it, and the decays
    are kept unless that is zero.
    """
    states = p.states
    zero = splat(scratch.dtype.type(0.0))
    everywhere = positive(splat(scratch.dtype.type(1.0)))
    for t in range(steps):
        kept = everywhere
        if resets:
            kept = positive(load(scratch, tiles.keep + t * LANES))
        step = load(scratch, tiles.delta + t * LANES)
        driven = load(scratch, tiles.driven + t * LANES)
        y = zero
        for n in range(0, states, 4):
            quad = (t * states + n) * (LANES // 4)
            b = load(scratch, tiles.wide_b + quad)
            c = load(scratch, tiles.wide_c + quad)
            rates = constants.rates + n * LANES
            before = state + t * by_step + n * LANES
            after = before + by_step
            h, decay_0 = advance_state(
                scratch, rates + 0 * LANES, before + 0 * LANES, after + 0 * LANES,
                kept, step, driven, spread_0(b),
            )  # fmt: skip
            y = fma(h, spread_0(c), y)
            h, decay_1 = advance_state(
                scratch, rates + 1 * LANES, before + 1 * LANES, after + 1 * LANES,
                kept, step, driven, spread_1(b),
            )  # fmt: skip
            y = fma(h, spread_1(c), y)
            h, decay_2 = advance_state(
                scratch, rates + 2 * LANES, before + 2 * LANES, after + 2 * LANES,
                kept, step, driven, spread_2(b),
            )  # fmt: skip
            y = fma(h, spread_2(c), y)
            h, decay_3 = advance_state(
                scratch, rates + 3 * LANES, before + 3 * LANES, after + 3 * LANES,
                kept, step, driven, spread_3(b),
            )  # fmt: skip
            y = fma(h, spread_3(c), y)
            if by_step != 0:
                at = decays + (t * states + n) * LANES
                store(scratch, at + 0 * LANES, decay_0)
                store(scratch, at + 1 * LANES, decay_1)
                store(scratch, at + 2 * LANES, decay_2)
                store(scratch, at + 3 * LANES, decay_3)
        store(scratch, tiles.y + t * LANES, y)


@kernel
def carry_back_quads(p, scratch, steps, resets, constants, tiles, history, sums):
    """As `carry_back`; the gradients of B and C are left in their tiles."""
    zero = splat(scratch.dtype.type(0.0))
    ln_2 = splat(scratch.dtype.type(LN_2))
    everywhere = positive(splat(scratch.dtype.type(1.0)))
    belongs = positive(load(scratch, sums.belongs))
    states = p.states
    for t in range(steps - 1, -1, -1):
        kept = everywhere
        if resets:
            kept = positive(load(scratch, tiles.keep + t * LANES))
        step = load(scratch, tiles.delta + t * LANES)
        driven = load(scratch, tiles.driven + t * LANES)
        dy = load(scratch, history.dy + t * LANES)
        dinput = zero
        dexponent = zero
        for n in range(0, states, 4):
            quad = (t * states + n) * (LANES // 4)
            b = load(scratch, tiles.wide_b + quad)
            c = load(scratch, tiles.wide_c + quad)
            db_0, dc_0, dinput, dexponent = carry_state_back(
                scratch, t, n, states, kept, belongs, constants, history, sums,
                step, driven, dy, spread_0(b), spread_0(c), dinput, dexponent,
            )  # fmt: skip
            db_1, dc_1, dinput, dexponent = carry_state_back(
                scratch, t, n + 1, states, kept, belongs, constants, history, sums,
                step, driven, dy, spread_1(b), spread_1(c), dinput, dexponent,
            )  # fmt: skip
            db_2, dc_2, dinput, dexponent = carry_state_back(
                scratch, t, n + 2, states, kept, belongs, constants, history, sums,
                step, driven, dy, spread_2(b), spread_2(c), dinput, dexponent,
            )  # fmt: skip
            db_3, dc_3, dinput, dexponent = carry_state_back(
                scratch, t, n + 3, states, kept, belongs, constants, history, sums,
                step, driven, dy, spread_3(b), spread_3(c), dinput, dexponent,
            )  # fmt: skip
            db = add_pairs(add_pairs(db_0, db_1), add_pairs(db_2, db_3))
            dc = add_pairs(add_pairs(dc_0, dc_1), add_pairs(dc_2, dc_3))
            store(scratch, tiles.wide_b + quad, db)
            store(scratch, tiles.wide_c + quad, dc)
        u = load(scratch, tiles.u + t * LANES)
        dstep = fma(dexponent, ln_2, mul(dinput, u))
        if p.softplus:
            shifted = add(load(scratch, tiles.raw + t * LANES), load(scratch, constants.bias))
            dstep = mul(dstep, softplus_slope(shifted))
        dstep = where(belongs, dstep, zero)
        finish_step_back(scratch, t, constants, tiles, sums, u, step, dy, dinput, dstep)

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

import numpy as np

from keelback.scan._block_kernels import (
    belonging,
    discretise,
    fill,
    place,
    read,
    read_resets,
    sum_segments,
    write,
    write_groups,
)
from keelback.scan._exp_kernels import LN_2, exp2, logistic, softplus_slope
from keelback.scan._forward_kernels import read_chunk, read_constants
from keelback.scan._jit import kernel
from keelback.scan._layout import LANES
from keelback.scan._simd_kernels import (
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


@kernel
def ungate(scratch, steps, u, skip, y, gate, dy):
    """Turn dy into the gradient before the gate silu(z), and the tile of z into dz."""
    one = splat(scratch.dtype.type(1.0))
    minus = splat(scratch.dtype.type(-1.0))
    skip_d = load(scratch, skip)
    for t in range(steps):
        z = load(scratch, gate + t * LANES)
        upstream = load(scratch, dy + t * LANES)
        ungated = fma(skip_d, load(scratch, u + t * LANES), load(scratch, y + t * LANES))
        sigma = logistic(z)
        slope = mul(sigma, fma(z, fma(sigma, minus, one), one))
        store(scratch, gate + t * LANES, mul(mul(upstream, ungated), slope))
        store(scratch, dy + t * LANES, mul(upstream, mul(z, sigma)))


@kernel
def add_sum_at(scratch, address, vector):
    """Add the sum of a vector's lanes to one float in memory."""
    store_scalar_at(address, scalar_at(scratch, address) + sum_lanes(vector))


@kernel
def add_shared_delta(p, scratch, block, split, start, steps, tile):
    """Add the gradient of a step size that all channels share: a sum over them."""
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
        at += group * p.splits * p.ddelta_partial + replica * p.ddelta_replica + row * p.ddelta_row
        for t in range(steps):
            add_sum_at(scratch, at + t * p.ddelta_time, load(scratch, tile + t * LANES))


@kernel
def backward_block(p, scratch, block, split):
    """Every gradient of one block; sums over channels go to the partial sum number `split`."""
    states, chunk, packed = p.states, p.chunk, p.packed != 0
    by_state_b, by_state_c = p.B_state, p.C_state
    by_state_db, by_state_dc = p.dB_state, p.dC_state
    none, one = np.int64(0), np.int64(1)
    rates = none
    adjoint = rates + states * LANES
    drates = adjoint + states * LANES
    bias = drates + states * LANES
    skip = bias + LANES
    dbias = skip + LANES
    dskip = dbias + LANES
    u = dskip + LANES
    raw = u + chunk * LANES
    delta = raw + chunk * LANES
    driven = delta + chunk * LANES
    y = driven + chunk * LANES
    gate = y + chunk * LANES
    dy = gate + chunk * LANES
    keep = dy + chunk * LANES
    history = keep + chunk * LANES
    decays = history + (chunk + 1) * states * LANES
    wide_b = decays + chunk * states * LANES
    wide_c = wide_b + chunk * states * LANES
    zero = splat(scratch.dtype.type(0.0))
    ln_2 = splat(scratch.dtype.type(LN_2))

    fill(scratch, 0, history // LANES, 0.0)
    read_constants(p, scratch, block, rates, bias, skip)
    read(
        p, scratch, block, adjoint, states,
        p.dlast, p.dlast_replica, p.dlast_row, p.dlast_state, p.dlast_lane,
    )  # fmt: skip
    replica, row, group, _, _ = place(p, block * p.segments_per_block)
    row_b = p.B + replica * p.B_replica + row * p.B_row + group * p.B_group
    row_c = p.C + replica * p.C_replica + row * p.C_row + group * p.C_group
    grad_b = (
        p.dB + split * p.dB_partial + replica * p.dB_replica + row * p.dB_row + group * p.dB_group
    )
    grad_c = (
        p.dC + split * p.dC_partial + replica * p.dC_replica + row * p.dC_row + group * p.dC_group
    )
    belonging(p, scratch, block, keep)
    belongs = positive(load(scratch, keep))
    skip_d = load(scratch, skip)

    for index in range(p.chunks - 1, -1, -1):
        start = index * chunk
        steps = min(chunk, p.length - start)
        at = p.checkpoints + index * p.checkpoints_chunk
        read(
            p, scratch, block, history, states, at, p.checkpoints_replica,
            p.checkpoints_row, p.checkpoints_state, p.checkpoints_lane,
        )  # fmt: skip
        read_chunk(p, scratch, block, start, steps, u, raw, gate, wide_b, wide_c)
        discretise(p, scratch, steps, raw, bias, u, delta, driven)
        resets = read_resets(p, scratch, block, keep, start, steps)

        for t in range(steps):
            step = load(scratch, delta + t * LANES)
            input_ = load(scratch, driven + t * LANES)
            at_b = row_b + (start + t) * p.B_time
            at_c = row_c + (start + t) * p.C_time
            before = history + t * states * LANES
            after = before + states * LANES
            decays_t = decays + t * states * LANES
            output = zero
            for n in range(states):
                if packed:
                    b = load(scratch, wide_b + (t * states + n) * LANES)
                    c = load(scratch, wide_c + (t * states + n) * LANES)
                else:
                    b = splat(scalar_at(scratch, at_b + n * by_state_b))
                    c = splat(scalar_at(scratch, at_c + n * by_state_c))
                decay = exp2(mul(step, load(scratch, rates + n * LANES)))
                h = load(scratch, before + n * LANES)
                if resets:
                    h = where(positive(load(scratch, keep + t * LANES)), h, zero)
                h = fma(decay, h, mul(input_, b))
                store(scratch, decays_t + n * LANES, decay)
                store(scratch, after + n * LANES, h)
                output = fma(h, c, output)
            store(scratch, y + t * LANES, output)

        at = p.dy + start * p.dy_time
        read(p, scratch, block, dy, steps, at, p.dy_replica, p.dy_row, p.dy_time, p.dy_lane)
        if p.z != 0:
            ungate(scratch, steps, u, skip, y, gate, dy)
            at = p.dz + start * p.dz_time
            write(p, scratch, block, gate, steps, at, p.dz_replica, p.dz_row, p.dz_time, p.dz_lane)

        for t in range(steps - 1, -1, -1):
            step = load(scratch, delta + t * LANES)
            input_ = load(scratch, driven + t * LANES)
            upstream = load(scratch, dy + t * LANES)
            value = load(scratch, u + t * LANES)
            before = history + t * states * LANES
            after = before + states * LANES
            decays_t = decays + t * states * LANES
            at_b = row_b + (start + t) * p.B_time
            at_c = row_c + (start + t) * p.C_time
            at_grad_b = grad_b + (start + t) * p.dB_time
            at_grad_c = grad_c + (start + t) * p.dC_time
            dinput = zero
            dexponent = zero
            for n in range(states):
                wide = (t * states + n) * LANES
                if packed:
                    b = load(scratch, wide_b + wide)
                    c = load(scratch, wide_c + wide)
                else:
                    b = splat(scalar_at(scratch, at_b + n * by_state_b))
                    c = splat(scalar_at(scratch, at_c + n * by_state_c))
                rate = load(scratch, rates + n * LANES)
                decay = load(scratch, decays_t + n * LANES)
                h_before = load(scratch, before + n * LANES)
                g = fma(upstream, c, load(scratch, adjoint + n * LANES))
                db = where(belongs, mul(g, input_), zero)
                dc = where(belongs, mul(upstream, load(scratch, after + n * LANES)), zero)
                if packed:
                    store(scratch, wide_b + wide, sum_segments(p.lanes_per_segment, db))
                    store(scratch, wide_c + wide, sum_segments(p.lanes_per_segment, dc))
                else:
                    add_sum_at(scratch, at_grad_b + n * by_state_db, db)
                    add_sum_at(scratch, at_grad_c + n * by_state_dc, dc)
                carried = mul(g, decay)
                if resets:
                    kept = positive(load(scratch, keep + t * LANES))
                    h_before = where(kept, h_before, zero)
                    carried = where(kept, carried, zero)
                grown = mul(mul(g, h_before), decay)
                dinput = fma(g, b, dinput)
                dexponent = fma(grown, rate, dexponent)
                drate = fma(grown, step, load(scratch, drates + n * LANES))
                store(scratch, drates + n * LANES, drate)
                store(scratch, adjoint + n * LANES, carried)
            dstep = fma(dexponent, ln_2, mul(dinput, value))
            if p.softplus:
                before_softplus = add(load(scratch, raw + t * LANES), load(scratch, bias))
                dstep = mul(dstep, softplus_slope(before_softplus))
            store(scratch, raw + t * LANES, dstep)
            store(scratch, dbias, add(load(scratch, dbias), dstep))
            store(scratch, dskip, fma(upstream, value, load(scratch, dskip)))
            store(scratch, u + t * LANES, fma(dinput, step, mul(upstream, skip_d)))

        at = p.du + start * p.du_time
        write(p, scratch, block, u, steps, at, p.du_replica, p.du_row, p.du_time, p.du_lane)
        if p.shared_delta:
            add_shared_delta(p, scratch, block, split, start, steps, raw)
        else:
            at = p.ddelta + start * p.ddelta_time
            write(
                p, scratch, block, raw, steps,
                at, p.ddelta_replica, p.ddelta_row, p.ddelta_time, p.ddelta_lane,
            )  # fmt: skip
        if packed:
            write_groups(
                p, scratch, block, wide_b, steps, states, p.dB + start * p.dB_time,
                p.dB_replica, p.dB_row, p.dB_time, p.dB_group, p.dB_state,
            )  # fmt: skip
            write_groups(
                p, scratch, block, wide_c, steps, states, p.dC + start * p.dC_time,
                p.dC_replica, p.dC_row, p.dC_time, p.dC_group, p.dC_state,
            )  # fmt: skip

    write(
        p, scratch, block, drates, states,
        p.dA, p.dA_replica, p.dA_row, p.dA_state, p.dA_lane,
    )  # fmt: skip
    write(p, scratch, block, dskip, one, p.dD, p.dD_replica, p.dD_row, none, p.dD_lane)
    write(p, scratch, block, dbias, one, p.dbias, p.dbias_replica, p.dbias_row, none, p.dbias_lane)
    write(
        p, scratch, block, adjoint, states,
        p.dinitial, p.dinitial_replica, p.dinitial_row, p.dinitial_state, p.dinitial_lane,
    )  # fmt: skip


@kernel
def backward_units(parameters, scratch, start_unit, stop_unit):
    """Run the units `start_unit` to `stop_unit`, with `backward_scratch` floats of scratch."""
    p = parameters[0]
    for unit in range(start_unit, stop_unit):
        if p.packed:
            backward_block(p, scratch, unit, np.int64(0))
        else:
            group, split = unit // p.splits, unit % p.splits
            first = split * p.blocks_per_unit
            for block in range(first, min(first + p.blocks_per_unit, p.blocks_per_group)):
                backward_block(p, scratch, group * p.blocks_per_group + block, split)


def backward_scratch(states: int, chunk: int) -> int:
    """Floats of scratch memory that `backward_units` needs."""
    return LANES * (3 * states + 4 + 8 * chunk + (4 * chunk + 1) * states)

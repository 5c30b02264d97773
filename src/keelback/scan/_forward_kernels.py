"""The forward scan of a range of blocks.

Each block keeps its state, one vector of `LANES` channels a state, in scratch memory (level-one
cache) and walks along the sequence chunk by chunk: read the chunk's operands into tiles, run the
recurrence, write the outputs.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

import numpy as np

from keelback.scan._block_kernels import (
    discretise,
    fill,
    place,
    read,
    read_groups,
    read_resets,
    write,
)
from keelback.scan._exp_kernels import LOG2_E, exp2, logistic
from keelback.scan._jit import kernel
from keelback.scan._layout import LANES
from keelback.scan._simd_kernels import (
    fma,
    load,
    mul,
    positive,
    scalar_at,
    splat,
    store,
    where,
)


@kernel
def read_constants(p, scratch, block, rates, bias, skip):
    """Read what does not change along the sequence: A, times log2(e), delta_bias and D."""
    none, one = np.int64(0), np.int64(1)  # Numba compiles a function anew for each literal.
    read(p, scratch, block, rates, p.states, p.A, p.A_replica, none, p.A_state, p.A_lane)
    read(p, scratch, block, bias, one, p.bias, p.bias_replica, none, none, p.bias_lane)
    read(p, scratch, block, skip, one, p.D, p.D_replica, none, none, p.D_lane)
    log2_e = splat(scratch.dtype.type(LOG2_E))
    for n in range(p.states):
        store(scratch, rates + n * LANES, mul(load(scratch, rates + n * LANES), log2_e))


@kernel
def read_chunk(p, scratch, block, start, steps, u, raw, gate, wide_b, wide_c):
    """Read the operands of the time steps from `start` on."""
    at = p.u + start * p.u_time
    read(p, scratch, block, u, steps, at, p.u_replica, p.u_row, p.u_time, p.u_lane)
    at = p.delta + start * p.delta_time
    read(
        p, scratch, block, raw, steps,
        at, p.delta_replica, p.delta_row, p.delta_time, p.delta_lane,
    )  # fmt: skip
    if p.z != 0:
        at = p.z + start * p.z_time
        read(p, scratch, block, gate, steps, at, p.z_replica, p.z_row, p.z_time, p.z_lane)
    if p.packed:
        at = p.B + start * p.B_time
        read_groups(
            p, scratch, block, wide_b, steps,
            at, p.B_replica, p.B_row, p.B_time, p.B_group, p.B_state,
        )  # fmt: skip
        at = p.C + start * p.C_time
        read_groups(
            p, scratch, block, wide_c, steps,
            at, p.C_replica, p.C_row, p.C_time, p.C_group, p.C_state,
        )  # fmt: skip


@kernel
def forward_blocks(parameters, scratch, start_block, stop_block):
    """Scan the blocks `start_block` to `stop_block`, with `forward_scratch` floats of scratch."""
    p = parameters[0]
    states, chunk, packed = p.states, p.chunk, p.packed != 0
    by_state_b, by_state_c = p.B_state, p.C_state
    rates = np.int64(0)
    state = rates + states * LANES
    bias = state + states * LANES
    skip = bias + LANES
    u = skip + LANES
    delta = u + chunk * LANES
    driven = delta + chunk * LANES
    gate = driven + chunk * LANES
    keep = gate + chunk * LANES
    wide_b = keep + chunk * LANES
    wide_c = wide_b + chunk * states * LANES
    zero = splat(scratch.dtype.type(0.0))
    for block in range(start_block, stop_block):
        fill(scratch, 0, wide_b // LANES, 0.0)
        read_constants(p, scratch, block, rates, bias, skip)
        read(
            p, scratch, block, state, states,
            p.initial, p.initial_replica, p.initial_row, p.initial_state, p.initial_lane,
        )  # fmt: skip
        replica, row, group, _, _ = place(p, block * p.segments_per_block)
        row_b = p.B + replica * p.B_replica + row * p.B_row + group * p.B_group
        row_c = p.C + replica * p.C_replica + row * p.C_row + group * p.C_group
        skip_d = load(scratch, skip)
        for index in range(p.chunks):
            start = index * chunk
            steps = min(chunk, p.length - start)
            if p.checkpoints != 0:
                at = p.checkpoints + index * p.checkpoints_chunk
                write(
                    p, scratch, block, state, states, at, p.checkpoints_replica,
                    p.checkpoints_row, p.checkpoints_state, p.checkpoints_lane,
                )  # fmt: skip
            read_chunk(p, scratch, block, start, steps, u, delta, gate, wide_b, wide_c)
            discretise(p, scratch, steps, delta, bias, u, delta, driven)
            resets = read_resets(p, scratch, block, keep, start, steps)
            for t in range(steps):
                if resets:
                    kept = positive(load(scratch, keep + t * LANES))
                    for n in range(states):
                        h = load(scratch, state + n * LANES)
                        store(scratch, state + n * LANES, where(kept, h, zero))
                step = load(scratch, delta + t * LANES)
                input_ = load(scratch, driven + t * LANES)
                at_b = row_b + (start + t) * p.B_time
                at_c = row_c + (start + t) * p.C_time
                y = zero
                for n in range(states):
                    if packed:
                        b = load(scratch, wide_b + (t * states + n) * LANES)
                        c = load(scratch, wide_c + (t * states + n) * LANES)
                    else:
                        b = splat(scalar_at(scratch, at_b + n * by_state_b))
                        c = splat(scalar_at(scratch, at_c + n * by_state_c))
                    decay = exp2(mul(step, load(scratch, rates + n * LANES)))
                    h = fma(decay, load(scratch, state + n * LANES), mul(input_, b))
                    store(scratch, state + n * LANES, h)
                    y = fma(h, c, y)
                if p.D != 0:
                    y = fma(skip_d, load(scratch, u + t * LANES), y)
                if p.z != 0:
                    z = load(scratch, gate + t * LANES)
                    y = mul(y, mul(z, logistic(z)))
                store(scratch, driven + t * LANES, y)
            at = p.y + start * p.y_time
            write(p, scratch, block, driven, steps, at, p.y_replica, p.y_row, p.y_time, p.y_lane)
        write(
            p, scratch, block, state, states,
            p.last, p.last_replica, p.last_row, p.last_state, p.last_lane,
        )  # fmt: skip


def forward_scratch(states: int, chunk: int) -> int:
    """Floats of scratch memory that `forward_blocks` needs."""
    return LANES * (2 * states + 2 + 5 * chunk + 2 * chunk * states)

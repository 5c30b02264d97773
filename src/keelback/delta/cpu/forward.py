"""The forward pass of the delta rule on the CPU: a range of units, a head of a sequence each.

Without erasing it is linear attention: the error of a step is its value.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from keelback.compiled import LANES
from keelback.compiled.jit import entry_kernel, kernel
from keelback.compiled.simd import fma, load, mul, splat, store
from keelback.compiled.tiles import add_product, product
from keelback.delta.cpu.plan import PAIRS, chunk_end, starts_anew
from keelback.delta.cpu.rows import (
    add_scaled,
    clear,
    decay_state,
    entering,
    leaving,
    load_decays,
    load_row,
    load_rows,
    load_scalar,
    norm_rows,
    pairs_by_channel,
    pairs_by_head,
    store_row,
    subtract_rows,
)
from keelback.delta.cpu.segments import SEGMENT


@kernel
def load_state(scratch, address, key, value, state, pitch):
    """A state (key, value) into scratch."""
    for d in range(key):
        load_row(scratch, address + d * value * scratch.itemsize, value, state + d * pitch)


@kernel
def store_state(scratch, state, pitch, address, key, value):
    """A state of scratch into a tensor."""
    for d in range(key):
        store_row(scratch, state + d * pitch, address + d * value * scratch.itemsize, value)


@kernel
def _one_step(scratch, state, decays, q, k, key, beta, values, error, output, pitch, erases):
    """A chunk of one step: the recurrence itself."""
    clear(scratch, error, pitch)
    clear(scratch, output, pitch)
    for d in range(key):
        row = state + d * pitch
        decay, of_key = splat(scratch[decays + d]), splat(scratch[k + d])
        for c in range(0, pitch, LANES):
            held = mul(decay, load(scratch, row + c))
            store(scratch, row + c, held)
            if erases:
                store(scratch, error + c, fma(of_key, held, load(scratch, error + c)))
    subtract_rows(scratch, values, error, pitch)
    for d in range(key):
        row = state + d * pitch
        write, of_query = splat(scratch[k + d] * beta), splat(scratch[q + d])
        for c in range(0, pitch, LANES):
            held = fma(write, load(scratch, error + c), load(scratch, row + c))
            store(scratch, row + c, held)
            store(scratch, output + c, fma(of_query, held, load(scratch, output + c)))


@entry_kernel
def run_units(
    scratch, addresses, strides, sizes, by_channel, normalise, erases, scale, start, stop
):  # fmt: skip
    """Outputs and last states of the units from `start` to `stop`.

    Where they have an address, the errors of all steps and the states before all segments too.
    """
    q_at, k_at, v_at, decay_at, beta_at, initial_at, reset_at, y_at, last_at = addresses[:9]
    errors_at, states_at = addresses[9:]
    q_strides, k_strides, v_strides, decay_strides, beta_strides = strides
    length, heads, per_group, key, value, kp, vp = sizes
    segments = (length + SEGMENT - 1) // SEGMENT
    size = scratch.itemsize
    state = 0
    qk = state + kp * vp
    entered, left = qk + 2 * LANES * kp, qk + 4 * LANES * kp
    decays, transposed = left + LANES * kp, left + 2 * LANES * kp
    across, scores = left + 3 * LANES * kp, left + 4 * LANES * kp
    outputs = scores + PAIRS  # and behind them the errors
    writes, values = outputs + 2 * LANES * vp, outputs + 3 * LANES * vp
    one = scratch.dtype.type(1)
    errors = outputs + LANES * vp
    for unit in range(start, stop):
        row, head = unit // heads, unit % heads
        q_row = q_at + row * q_strides[0] + head // per_group * q_strides[2]
        k_row = k_at + row * k_strides[0] + head // per_group * k_strides[2]
        v_row = v_at + row * v_strides[0] + head * v_strides[2]
        decay_row = decay_at + row * decay_strides[0] + head * decay_strides[2]
        beta_row = beta_at + row * beta_strides[0] + head * beta_strides[2]
        reset = 0 if reset_at == 0 else reset_at + row * length
        clear(scratch, state, kp * vp)
        if initial_at != 0:
            load_state(scratch, initial_at + unit * key * value * size, key, value, state, vp)
        t = 0
        while t < length:
            end = chunk_end(reset, t, length)
            steps = end - t
            if states_at != 0 and t % SEGMENT == 0:
                place = ((row * segments + t // SEGMENT) * heads + head) * key * value * size
                store_state(scratch, state, vp, states_at + place, key, value)
            if starts_anew(reset, t):
                clear(scratch, state, kp * vp)
            rows = LANES if steps > 1 else 1
            if rows > 1:
                load_rows(scratch, q_row + t * q_strides[1], q_strides[1], steps, key, qk, kp)
                k_place = qk + LANES * kp
                load_rows(scratch, k_row + t * k_strides[1], k_strides[1], steps, key, k_place, kp)
            else:
                k_place = qk + kp
                load_row(scratch, q_row + t * q_strides[1], key, qk)
                load_row(scratch, k_row + t * k_strides[1], key, k_place)
            norm_rows(scratch, qk, kp, steps, normalise, scale)
            norm_rows(scratch, k_place, kp, steps, normalise, one)
            if rows == 1:
                beta = load_scalar(scratch, beta_row + t * beta_strides[1])
                here = decay_row + t * decay_strides[1]
                if by_channel:
                    load_row(scratch, here, key, decays)
                else:
                    decay = splat(load_scalar(scratch, here))
                    for c in range(0, kp, LANES):
                        store(scratch, decays + c, decay)
                load_row(scratch, v_row + t * v_strides[1], value, values)
                _one_step(
                    scratch, state, decays, qk, k_place, key, beta, values, errors, outputs, vp,
                    erases,
                )  # fmt: skip
            else:
                here = decay_row + t * decay_strides[1]
                load_decays(scratch, here, decay_strides[1], steps, key, by_channel, decays, kp)
                entering(scratch, decays, kp, qk, entered)
                leaving(scratch, decays, kp, k_place, left, across)
                if by_channel:
                    pairs_by_channel(scratch, qk, kp, steps, decays, transposed, scores)
                else:
                    pairs_by_head(scratch, qk, kp, decays, transposed, scores)
                product(
                    scratch, entered, kp, 1, kp, scratch, state, vp, scratch, outputs, vp,
                    (2 * LANES if erases else LANES, vp),
                )  # fmt: skip
                for i in range(steps):
                    error = errors + i * vp
                    if not erases:
                        clear(scratch, error, vp)
                    load_row(scratch, v_row + (t + i) * v_strides[1], value, values)
                    subtract_rows(scratch, values, error, vp)
                    for j in range(i if erases else 0):
                        factor = -scratch[scores + (LANES + i) * LANES + j]
                        add_scaled(scratch, error, writes + j * vp, factor, vp)
                    beta = splat(load_scalar(scratch, beta_row + (t + i) * beta_strides[1]))
                    for c in range(0, vp, LANES):
                        store(scratch, writes + i * vp + c, mul(beta, load(scratch, error + c)))
                clear(scratch, writes + steps * vp, (LANES - steps) * vp)
                add_product(
                    scratch, scores, LANES, 1, LANES, scratch, writes, vp, scratch, outputs, vp,
                    (LANES, vp),
                )  # fmt: skip
                decay_state(scratch, state, across, key, vp)
                add_product(
                    scratch, left, 1, kp, LANES, scratch, writes, vp, scratch, state, vp, (kp, vp)
                )
            for i in range(steps):
                place = ((row * length + t + i) * heads + head) * value * size
                store_row(scratch, outputs + i * vp, y_at + place, value)
                if errors_at != 0:
                    store_row(scratch, errors + i * vp, errors_at + place, value)
            t = end
        store_state(scratch, state, vp, last_at + unit * key * value * size, key, value)

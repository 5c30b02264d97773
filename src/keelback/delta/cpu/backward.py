"""The gradients of the delta rule on the CPU: a range of units, a head of a sequence each.

Errors are kept from the forward pass, and states before segments; chunks walk from the last to the
first. Of the gradients with respect to errors it is always the negative that is here: it adds up in
products as the gradients of the outputs do, which lie before it in one matrix of 2 `LANES` rows.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

import math

import numpy as np

from keelback.compiled import LANES
from keelback.compiled.jit import entry_kernel, kernel
from keelback.compiled.simd import add, load, store, store_scalar_at, sum_lanes
from keelback.compiled.tiles import add_product, product
from keelback.delta.cpu.forward import load_state, store_state
from keelback.delta.cpu.inside import gradients_inside
from keelback.delta.cpu.plan import PAIRS, STATES, chunk_end, starts_anew
from keelback.delta.cpu.rows import (
    EPSILON,
    add_scaled,
    clear,
    decay_state,
    dot,
    entering,
    leaving,
    load_decays,
    load_row,
    load_rows,
    load_scalar,
    norm_rows,
    pairs_by_channel,
    pairs_by_head,
    scale_row,
    store_row,
    transpose_rows,
)
from keelback.delta.cpu.segments import SEGMENT


@kernel
def _load_writes(scratch, error_row, error_stride, beta_row, beta_stride, steps, value, place, vp):
    """What the steps of a chunk write along their keys: beta times their errors."""
    load_rows(scratch, error_row, error_stride, steps, value, place, vp)
    for i in range(steps):
        scale_row(scratch, place + i * vp, load_scalar(scratch, beta_row + i * beta_stride), vp)


@kernel
def _store_before_norm(scratch, raw, row, pitch, normalise, scale, address, size):
    """The gradient of a query or key, from that of its row as the chunk has it.

    Args:
        raw: Where it lies in scratch as it was given.
        row: The gradient, which is overwritten.
    """
    inverse = scratch.dtype.type(1)
    if normalise:
        square = dot(scratch, raw, raw, pitch)
        inverse = scratch.dtype.type(1 / math.sqrt(square + EPSILON))
        along = dot(scratch, raw, row, pitch) * inverse * inverse
        add_scaled(scratch, row, raw, -along, pitch)
    scale_row(scratch, row, scratch.dtype.type(inverse * scale), pitch)
    store_row(scratch, row, address, size)


@kernel
def _products_of_rows(scratch, a, b, key, pitch, factors, target):
    """Of each row of two states the product, times a factor, into a row of `target`."""
    for d in range(key):
        scratch[target + d] = (
            dot(scratch, a + d * pitch, b + d * pitch, pitch) * scratch[factors + d]
        )


@entry_kernel
def run_units(
    scratch, addresses, strides, sizes, by_channel, normalise, scale, start, stop
):  # fmt: skip
    """The gradients of the units from `start` to `stop`; those of q and k are per head."""
    q_at, k_at, decay_at, beta_at, reset_at, errors_at, states_at, dy_at, dlast_at = addresses[:9]
    dq_at, dk_at, dv_at, dlog_at, dbeta_at, dinitial_at = addresses[9:]
    q_strides, k_strides, decay_strides, beta_strides = strides
    length, heads, per_group, key, value, kp, vp = sizes
    segments = (length + SEGMENT - 1) // SEGMENT
    size = scratch.itemsize
    state, dstate = 0, STATES * kp * vp
    qk = dstate + kp * vp
    entered, left = qk + 2 * LANES * kp, qk + 4 * LANES * kp
    decays, transposed = left + LANES * kp, left + 2 * LANES * kp
    of_rows = left + 3 * LANES * kp  # Gradients: of q, of k as it reads, of k as it writes.
    to_end = of_rows + 3 * LANES * kp
    turned = to_end + LANES * kp
    across = turned + 2 * LANES * kp
    tails = across + kp
    scores = tails + kp
    dscores = scores + PAIRS
    given = dscores + PAIRS  # Gradients of outputs, and behind them of errors.
    writes, errors, dwrites = given + 2 * LANES * vp, given + 3 * LANES * vp, given + 4 * LANES * vp
    writes_turned = given + 5 * LANES * vp
    given_turned = given + 6 * LANES * vp
    one = scratch.dtype.type(1)
    starts = np.empty(SEGMENT + 1, np.int64)
    row_of_values, row_of_keys = heads * value * size, heads * key * size
    log_size = key * size if by_channel else size
    row_of_logs = heads * log_size
    for unit in range(start, stop):
        row, head = unit // heads, unit % heads
        q_row = q_at + row * q_strides[0] + head // per_group * q_strides[2]
        k_row = k_at + row * k_strides[0] + head // per_group * k_strides[2]
        decay_row = decay_at + row * decay_strides[0] + head * decay_strides[2]
        beta_row = beta_at + row * beta_strides[0] + head * beta_strides[2]
        of_values = row * length * row_of_values + head * value * size
        of_keys = row * length * row_of_keys + head * key * size
        dlog_row = dlog_at + row * length * row_of_logs + head * log_size
        dbeta_row = dbeta_at + (row * length * heads + head) * size
        reset = 0 if reset_at == 0 else reset_at + row * length
        clear(scratch, state, (STATES + 1) * kp * vp)
        if dlast_at != 0:
            load_state(scratch, dlast_at + unit * key * value * size, key, value, dstate, vp)
        for segment in range(segments - 1, -1, -1):
            first = segment * SEGMENT
            stop_here = min(first + SEGMENT, length)
            place = ((row * segments + segment) * heads + head) * key * value * size
            load_state(scratch, states_at + place, key, value, state, vp)
            chunks, t = 0, first
            starts[0] = first
            while t < stop_here:
                end = chunk_end(reset, t, length)
                chunks += 1
                starts[chunks] = end
                if end < stop_here and not starts_anew(reset, end):
                    # A full chunk: the state after it is the next one's.
                    here = state + (t - first) // LANES * kp * vp
                    there = state + (end - first) // LANES * kp * vp
                    if starts_anew(reset, t):
                        clear(scratch, there, kp * vp)
                    else:
                        for c in range(0, kp * vp, LANES):
                            store(scratch, there + c, load(scratch, here + c))
                    k_place = qk + LANES * kp
                    load_rows(
                        scratch, k_row + t * k_strides[1], k_strides[1], LANES, key, k_place, kp
                    )
                    norm_rows(scratch, k_place, kp, LANES, normalise, one)
                    at = decay_row + t * decay_strides[1]
                    load_decays(scratch, at, decay_strides[1], LANES, key, by_channel, decays, kp)
                    leaving(scratch, decays, kp, k_place, left, across)
                    _load_writes(
                        scratch, errors_at + of_values + t * row_of_values, row_of_values,
                        beta_row + t * beta_strides[1], beta_strides[1], LANES, value, writes, vp,
                    )  # fmt: skip
                    decay_state(scratch, there, across, key, vp)
                    add_product(
                        scratch, left, 1, kp, LANES, scratch, writes, vp, scratch, there, vp,
                        (kp, vp),
                    )  # fmt: skip
                t = end
            for chunk in range(chunks - 1, -1, -1):
                t = starts[chunk]
                steps = starts[chunk + 1] - t
                anew = starts_anew(reset, t)
                before = state + (t - first) // LANES * kp * vp
                k_place = qk + LANES * kp
                load_rows(scratch, q_row + t * q_strides[1], q_strides[1], steps, key, qk, kp)
                load_rows(scratch, k_row + t * k_strides[1], k_strides[1], steps, key, k_place, kp)
                norm_rows(scratch, qk, kp, steps, normalise, scale)
                norm_rows(scratch, k_place, kp, steps, normalise, one)
                at = decay_row + t * decay_strides[1]
                load_decays(scratch, at, decay_strides[1], steps, key, by_channel, decays, kp)
                entering(scratch, decays, kp, qk, entered)
                leaving(scratch, decays, kp, k_place, left, across)
                if by_channel:
                    pairs_by_channel(scratch, qk, kp, steps, decays, transposed, scores)
                else:
                    pairs_by_head(scratch, qk, kp, decays, transposed, scores)
                here = of_values + t * row_of_values
                load_rows(scratch, errors_at + here, row_of_values, steps, value, errors, vp)
                _load_writes(
                    scratch, errors_at + here, row_of_values,
                    beta_row + t * beta_strides[1], beta_strides[1], steps, value, writes, vp,
                )  # fmt: skip
                load_rows(scratch, dy_at + here, row_of_values, steps, value, given, vp)
                clear(scratch, given + LANES * vp, LANES * vp)
                product(
                    scratch, scores, 1, LANES, LANES, scratch, given, vp, scratch, dwrites, vp,
                    (LANES, vp),
                )  # fmt: skip
                add_product(
                    scratch, left, kp, 1, kp, scratch, dstate, vp, scratch, dwrites, vp,
                    (LANES, vp),
                )  # fmt: skip
                for i in range(steps - 1, -1, -1):
                    dwrite, derror = dwrites + i * vp, given + (LANES + i) * vp
                    for j in range(i + 1, steps):
                        factor = scratch[scores + (LANES + j) * LANES + i]
                        add_scaled(scratch, dwrite, given + (LANES + j) * vp, factor, vp)
                    dbeta = dot(scratch, dwrite, errors + i * vp, vp)
                    store_scalar_at(dbeta_row + (t + i) * heads * size, dbeta)
                    beta = load_scalar(scratch, beta_row + (t + i) * beta_strides[1])
                    scale_row(scratch, dwrite, beta, vp)
                    store_row(scratch, dwrite, dv_at + here + i * row_of_values, value)
                    add_scaled(scratch, derror, dwrite, -one, vp)
                transpose_rows(scratch, writes, vp, vp, writes_turned, LANES)
                transpose_rows(scratch, given, vp, vp, given_turned, 2 * LANES)
                transpose_rows(scratch, given + LANES * vp, vp, vp, given_turned + LANES, 2 * LANES)
                product(
                    scratch, given, vp, 1, vp, scratch, writes_turned, LANES, scratch, dscores,
                    LANES, (2 * LANES, LANES),
                )  # fmt: skip
                product(
                    scratch, dstate, vp, 1, vp, scratch, writes_turned, LANES, scratch, turned,
                    LANES, (kp, LANES),
                )  # fmt: skip
                for c in range(0, kp, LANES):
                    transpose_rows(scratch, turned + c * LANES, LANES, LANES, to_end + c, kp)
                clear(scratch, tails, kp)
                if anew:
                    clear(scratch, of_rows, 2 * LANES * kp)
                    clear(scratch, dstate, kp * vp)
                else:
                    product(
                        scratch, before, vp, 1, vp, scratch, given_turned, 2 * LANES, scratch,
                        turned, 2 * LANES, (kp, 2 * LANES),
                    )  # fmt: skip
                    for c in range(0, kp, LANES):
                        block = turned + c * 2 * LANES
                        transpose_rows(scratch, block, 2 * LANES, 2 * LANES, of_rows + c, kp)
                    _products_of_rows(scratch, before, dstate, key, vp, across, tails)
                    decay_state(scratch, dstate, across, key, vp)
                    add_product(
                        scratch, entered, 1, kp, 2 * LANES, scratch, given, vp, scratch, dstate, vp,
                        (kp, vp),
                    )  # fmt: skip
                gradients_inside(scratch, qk, decays, dscores, tails, of_rows, to_end, kp, steps)
                for i in range(steps):
                    logs = to_end + i * kp
                    dlog = dlog_row + (t + i) * row_of_logs
                    if anew and i == 0:  # Nothing is left to decay there.
                        clear(scratch, logs, kp)
                    if by_channel:
                        store_row(scratch, logs, dlog, key)
                    else:
                        total = load(scratch, logs)
                        for c in range(LANES, kp, LANES):
                            total = add(total, load(scratch, logs + c))
                        store_scalar_at(dlog, sum_lanes(total))
                    target = of_keys + (t + i) * row_of_keys
                    raw = entered
                    load_row(scratch, q_row + (t + i) * q_strides[1], key, raw)
                    _store_before_norm(
                        scratch, raw, of_rows + i * kp, kp, normalise, scale, dq_at + target, key
                    )
                    load_row(scratch, k_row + (t + i) * k_strides[1], key, raw)
                    _store_before_norm(
                        scratch, raw, of_rows + (LANES + i) * kp, kp, normalise, one,
                        dk_at + target, key,
                    )  # fmt: skip
        if dinitial_at != 0:
            place = dinitial_at + unit * key * value * size
            store_state(scratch, dstate, vp, place, key, value)

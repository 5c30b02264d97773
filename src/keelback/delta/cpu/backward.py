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
from keelback.delta.cpu.plan import STATES, OfSequences, chunk_end, starts_anew
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
def _load_keys(scratch, at, chunk, steps, strides, sizes, options):
    """Keys, decays, keys as the state after the chunk meets them, and what steps write along
    them."""
    keys, kp = at.qk + LANES * sizes.kp, sizes.kp
    load_rows(scratch, chunk.k, strides.k[1], steps, sizes.key, keys, kp)
    norm_rows(scratch, keys, kp, steps, options.normalise, scratch.dtype.type(1))
    load_decays(
        scratch, chunk.decays, strides.decays[1], steps, sizes.key, options.by_channel,
        at.decays, kp,
    )  # fmt: skip
    leaving(scratch, at.decays, kp, keys, at.left, at.across)
    load_rows(scratch, chunk.errors, strides.errors[1], steps, sizes.value, at.writes, sizes.vp)
    for i in range(steps):
        beta = load_scalar(scratch, chunk.beta + i * strides.beta[1])
        scale_row(scratch, at.writes + i * sizes.vp, beta, sizes.vp)


@kernel
def _state_after(scratch, at, chunk, steps, anew, strides, sizes, options, before, after):
    """The state after a chunk, from that before it."""
    _load_keys(scratch, at, chunk, steps, strides, sizes, options)
    if anew:
        clear(scratch, after, sizes.kp * sizes.vp)
    else:
        for c in range(0, sizes.kp * sizes.vp, LANES):
            store(scratch, after + c, load(scratch, before + c))
        decay_state(scratch, after, at.across, sizes.key, sizes.vp)
    add_product(
        scratch, at.left, 1, sizes.kp, LANES, scratch, at.writes, sizes.vp, scratch, after,
        sizes.vp, (sizes.kp, sizes.vp),
    )  # fmt: skip


@kernel
def _load_chunk(scratch, at, chunk, steps, strides, sizes, options):
    """All that a chunk was computed from, its scores, and the gradients of its outputs."""
    kp, vp = sizes.kp, sizes.vp
    _load_keys(scratch, at, chunk, steps, strides, sizes, options)
    load_rows(scratch, chunk.q, strides.q[1], steps, sizes.key, at.qk, kp)
    norm_rows(scratch, at.qk, kp, steps, options.normalise, options.scale)
    entering(scratch, at.decays, kp, at.qk, at.entered)
    if options.by_channel:
        pairs_by_channel(scratch, at.qk, kp, steps, at.decays, at.transposed, at.scores)
    else:
        pairs_by_head(scratch, at.qk, kp, at.decays, at.transposed, at.scores)
    load_rows(scratch, chunk.errors, strides.errors[1], steps, sizes.value, at.errors, vp)
    load_rows(scratch, chunk.dy, strides.dy[1], steps, sizes.value, at.given, vp)
    clear(scratch, at.given + LANES * vp, LANES * vp)


@kernel
def _through_writes(scratch, at, chunk, steps, strides, sizes, erases):
    """The gradients of values and betas, and behind those of the outputs those of the errors.

    What a step writes is read by later queries, by later keys, and by the state after the chunk.
    """
    kp, vp = sizes.kp, sizes.vp
    product(
        scratch, at.scores, 1, LANES, LANES, scratch, at.given, vp, scratch, at.dwrites, vp,
        (LANES, vp),
    )  # fmt: skip
    add_product(
        scratch, at.left, kp, 1, kp, scratch, at.dstate, vp, scratch, at.dwrites, vp, (LANES, vp)
    )
    for i in range(steps - 1, -1, -1):
        dwrite, derror = at.dwrites + i * vp, at.given + (LANES + i) * vp
        for j in range(i + 1, steps if erases else i):
            factor = scratch[at.scores + (LANES + j) * LANES + i]
            add_scaled(scratch, dwrite, at.given + (LANES + j) * vp, factor, vp)
        dbeta = dot(scratch, dwrite, at.errors + i * vp, vp)
        store_scalar_at(chunk.dbeta + i * strides.dbeta[1], dbeta)
        scale_row(scratch, dwrite, load_scalar(scratch, chunk.beta + i * strides.beta[1]), vp)
        store_row(scratch, dwrite, chunk.dv + i * strides.dv[1], sizes.value)
        if erases:  # Else no error depends on a state.
            add_scaled(scratch, derror, dwrite, scratch.dtype.type(-1), vp)


@kernel
def _through_states(scratch, at, anew, sizes, before):
    """The gradients of the scores, of keys by the state after the chunk, of queries and keys by
    that before it, and in the place of the gradient of the former that of the latter."""
    kp, vp = sizes.kp, sizes.vp
    transpose_rows(scratch, at.writes, vp, vp, at.writes_turned, LANES)
    product(
        scratch, at.given, vp, 1, vp, scratch, at.writes_turned, LANES, scratch, at.dscores,
        LANES, (2 * LANES, LANES),
    )  # fmt: skip
    product(
        scratch, at.dstate, vp, 1, vp, scratch, at.writes_turned, LANES, scratch, at.turned,
        LANES, (kp, LANES),
    )  # fmt: skip
    for c in range(0, kp, LANES):
        transpose_rows(scratch, at.turned + c * LANES, LANES, LANES, at.to_end + c, kp)
    clear(scratch, at.tails, kp)
    if anew:
        clear(scratch, at.of_rows, 2 * LANES * kp)
        clear(scratch, at.dstate, kp * vp)
        return
    for part in range(2):
        place = at.given_turned + part * LANES
        transpose_rows(scratch, at.given + part * LANES * vp, vp, vp, place, 2 * LANES)
    product(
        scratch, before, vp, 1, vp, scratch, at.given_turned, 2 * LANES, scratch, at.turned,
        2 * LANES, (kp, 2 * LANES),
    )  # fmt: skip
    for c in range(0, kp, LANES):
        block = at.turned + c * 2 * LANES
        transpose_rows(scratch, block, 2 * LANES, 2 * LANES, at.of_rows + c, kp)
    for d in range(sizes.key):
        whole = dot(scratch, before + d * vp, at.dstate + d * vp, vp)
        scratch[at.tails + d] = whole * scratch[at.across + d]
    decay_state(scratch, at.dstate, at.across, sizes.key, vp)
    add_product(
        scratch, at.entered, 1, kp, 2 * LANES, scratch, at.given, vp, scratch, at.dstate, vp,
        (kp, vp),
    )  # fmt: skip


@kernel
def _store_gradients(scratch, at, chunk, steps, anew, strides, sizes, options):
    """Of queries, keys and log decays."""
    kp = sizes.kp
    for i in range(steps):
        logs = at.to_end + i * kp
        if anew and i == 0:  # Nothing is left to decay there.
            clear(scratch, logs, kp)
        if options.by_channel:
            store_row(scratch, logs, chunk.dlogs + i * strides.dlogs[1], sizes.key)
        else:
            total = load(scratch, logs)
            for c in range(LANES, kp, LANES):
                total = add(total, load(scratch, logs + c))
            store_scalar_at(chunk.dlogs + i * strides.dlogs[1], sum_lanes(total))
        for part in range(2):
            row = at.of_rows + (part * LANES + i) * kp
            given = chunk.k + i * strides.k[1] if part else chunk.q + i * strides.q[1]
            found = (chunk.dk if part else chunk.dq) + i * strides.dq[1]
            scale = scratch.dtype.type(1) if part else options.scale
            load_row(scratch, given, sizes.key, at.entered)
            _before_norm(scratch, at.entered, row, kp, options.normalise, scale)
            store_row(scratch, row, found, sizes.key)


@kernel
def _before_norm(scratch, given, row, pitch, normalise, scale):
    """The gradient of a query or key as it was given, in the place of that of its row in the
    chunk."""
    inverse = scratch.dtype.type(1)
    if normalise:
        square = dot(scratch, given, given, pitch)
        inverse = scratch.dtype.type(1 / math.sqrt(square + EPSILON))
        along = dot(scratch, given, row, pitch) * inverse * inverse
        add_scaled(scratch, row, given, -along, pitch)
    scale_row(scratch, row, scratch.dtype.type(inverse * scale), pitch)


@kernel
def _places_of(unit, t, tensors, strides, sizes):
    """The addresses of a unit's step."""
    row, head = unit // sizes.heads, unit % sizes.heads
    group = head // sizes.per_group
    return OfSequences(
        _address(tensors.q, strides.q, row, t, group),
        _address(tensors.k, strides.k, row, t, group),
        _address(tensors.decays, strides.decays, row, t, head),
        _address(tensors.beta, strides.beta, row, t, head),
        _address(tensors.errors, strides.errors, row, t, head),
        _address(tensors.dy, strides.dy, row, t, head),
        _address(tensors.dq, strides.dq, row, t, head),
        _address(tensors.dk, strides.dk, row, t, head),
        _address(tensors.dv, strides.dv, row, t, head),
        _address(tensors.dlogs, strides.dlogs, row, t, head),
        _address(tensors.dbeta, strides.dbeta, row, t, head),
    )


@kernel
def _address(start, strides, row, t, head):
    return start + row * strides[0] + t * strides[1] + head * strides[2]


@kernel
def _states_of_segment(
    scratch, at, unit, reset, first, stop, starts, tensors, strides, sizes, options
):  # fmt: skip
    """Where the chunks of a segment begin, and the states before those that do not start anew; how
    many chunks there are.

    The state before the first chunk is there already. One that does not start anew follows a full
    one, so that no two of them have the same place.
    """
    chunks, t = 0, first
    starts[0] = first
    while t < stop:
        end = chunk_end(reset, t, stop)
        chunks += 1
        starts[chunks] = end
        if end < stop and not starts_anew(reset, end):
            chunk = _places_of(unit, t, tensors, strides, sizes)
            before, after = _state_at(at, first, t, sizes), _state_at(at, first, end, sizes)
            anew = starts_anew(reset, t)
            _state_after(scratch, at, chunk, end - t, anew, strides, sizes, options, before, after)
        t = end
    return chunks


@kernel
def _state_at(at, first, t, sizes):
    """The place of the state before a chunk of the segment that begins at `first`."""
    return at.state + (t - first) // LANES * sizes.kp * sizes.vp


@entry_kernel
def run_units(
    scratch, at, tensors, strides, states, sizes, options, start, stop
):  # fmt: skip
    """The gradients of the units from `start` to `stop`; those of q and k are per head.

    Args:
        at: Places in scratch.
        tensors: Addresses, and `strides` of row, step and head in bytes.
        states: The addresses of the resets, the states before segments, and the gradients of the
            last and the initial states.
    """
    reset_at, before_at, dlast_at, dinitial_at = states
    bytes_of_state = sizes.key * sizes.value * scratch.itemsize
    segments = (sizes.length + SEGMENT - 1) // SEGMENT
    starts = np.empty(SEGMENT + 1, np.int64)
    for unit in range(start, stop):
        row, head = unit // sizes.heads, unit % sizes.heads
        reset = 0 if reset_at == 0 else reset_at + row * sizes.length
        clear(scratch, at.state, (STATES + 1) * sizes.kp * sizes.vp)
        if dlast_at != 0:
            place = dlast_at + unit * bytes_of_state
            load_state(scratch, place, sizes.key, sizes.value, at.dstate, sizes.vp)
        for segment in range(segments - 1, -1, -1):
            first = segment * SEGMENT
            end = min(first + SEGMENT, sizes.length)
            place = before_at + ((row * segments + segment) * sizes.heads + head) * bytes_of_state
            load_state(scratch, place, sizes.key, sizes.value, at.state, sizes.vp)
            chunks = _states_of_segment(
                scratch, at, unit, reset, first, end, starts, tensors, strides, sizes, options
            )
            for number in range(chunks - 1, -1, -1):
                t = starts[number]
                steps, anew = starts[number + 1] - t, starts_anew(reset, t)
                chunk = _places_of(unit, t, tensors, strides, sizes)
                before = _state_at(at, first, t, sizes)
                _load_chunk(scratch, at, chunk, steps, strides, sizes, options)
                _through_writes(scratch, at, chunk, steps, strides, sizes, options.erases)
                _through_states(scratch, at, anew, sizes, before)
                gradients_inside(
                    scratch, at.qk, at.decays, at.dscores, at.tails, at.of_rows, at.to_end,
                    sizes.kp, steps,
                )  # fmt: skip
                _store_gradients(scratch, at, chunk, steps, anew, strides, sizes, options)
        if dinitial_at != 0:
            place = dinitial_at + unit * bytes_of_state
            store_state(scratch, at.dstate, sizes.vp, place, sizes.key, sizes.value)

"""Rows of tensors in scratch memory, and the small matrices of a chunk that are made of them.

In scratch a row is filled up to whole vectors with zeros, and a chunk to `LANES` rows. Queries come
before keys where both lie in one matrix of 2 `LANES` rows.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

import math

from keelback.compiled import LANES
from keelback.compiled.jit import kernel
from keelback.compiled.simd import (
    fma,
    lanes_between,
    load,
    load_at,
    load_masked_at,
    mul,
    splat,
    store,
    store_at,
    store_masked_at,
    sum_lanes,
    where,
)
from keelback.compiled.tiles import product, transpose_block
from keelback.delta.reference import NORM_EPSILON

#: A constant to Numba.
EPSILON = NORM_EPSILON


@kernel
def load_row(scratch, address, size, place):
    """A row of a tensor into scratch."""
    for c in range(0, size, LANES):
        here = address + c * scratch.itemsize
        if size - c >= LANES:
            store(scratch, place + c, load_at(scratch, here))
        else:
            mask = lanes_between(0, size - c)
            store(scratch, place + c, load_masked_at(scratch, here, mask))


@kernel
def store_row(scratch, place, address, size):
    """A row of scratch into a tensor."""
    for c in range(0, size, LANES):
        here = address + c * scratch.itemsize
        if size - c >= LANES:
            store_at(here, load(scratch, place + c))
        else:
            store_masked_at(here, load(scratch, place + c), lanes_between(0, size - c))


@kernel
def clear(scratch, place, count):
    """Zeros, of whole vectors."""
    zero = splat(scratch.dtype.type(0))
    for c in range(place, place + count, LANES):
        store(scratch, c, zero)


@kernel
def load_rows(scratch, address, stride, steps, size, place, pitch):
    """The rows of a chunk."""
    for i in range(steps):
        load_row(scratch, address + i * stride, size, place + i * pitch)
    clear(scratch, place + steps * pitch, (LANES - steps) * pitch)


@kernel
def dot(scratch, a, b, count):
    """The product of two rows."""
    total = splat(scratch.dtype.type(0))
    for c in range(0, count, LANES):
        total = fma(load(scratch, a + c), load(scratch, b + c), total)
    return sum_lanes(total)


@kernel
def scale_row(scratch, place, factor, count):
    """A row times a factor."""
    factors = splat(factor)
    for c in range(place, place + count, LANES):
        store(scratch, c, mul(factors, load(scratch, c)))


@kernel
def norm_rows(scratch, place, pitch, steps, normalise, scale):
    """Rows over their norms, if they are to be, times a scale."""
    for i in range(steps):
        row = place + i * pitch
        inverse = scratch.dtype.type(1)
        if normalise:
            square = dot(scratch, row, row, pitch)
            inverse = scratch.dtype.type(1 / math.sqrt(square + EPSILON))
        scale_row(scratch, row, scratch.dtype.type(inverse * scale), pitch)


@kernel
def load_decays(scratch, address, stride, steps, key, by_channel, place, pitch):
    """The decays of each step and channel, (LANES, pitch); those of steps that are not there are
    1."""
    one = splat(scratch.dtype.type(1))
    for i in range(LANES):
        row = place + i * pitch
        if i >= steps or not by_channel:
            decay = one if i >= steps else splat(load_scalar(scratch, address + i * stride))
            for c in range(0, pitch, LANES):
                store(scratch, row + c, decay)
        else:
            load_row(scratch, address + i * stride, key, row)


@kernel
def load_scalar(scratch, address):
    """One float of a tensor."""
    return sum_lanes(load_masked_at(scratch, address, lanes_between(0, 1)))


@kernel
def entering(scratch, decays, pitch, qk, entered):
    """Queries and keys as the state before the chunk meets them."""
    for c in range(0, pitch, LANES):
        decay = splat(scratch.dtype.type(1))
        for i in range(LANES):
            decay = mul(decay, load(scratch, decays + i * pitch + c))
            for part in range(2):
                row = (part * LANES + i) * pitch + c
                store(scratch, entered + row, mul(decay, load(scratch, qk + row)))


@kernel
def leaving(scratch, decays, pitch, keys, left, across):
    """Keys as the state after the chunk meets them, and the decays of the whole chunk."""
    for c in range(0, pitch, LANES):
        decay = splat(scratch.dtype.type(1))
        for i in range(LANES - 1, -1, -1):
            row = i * pitch + c
            store(scratch, left + row, mul(decay, load(scratch, keys + row)))
            decay = mul(decay, load(scratch, decays + row))
        store(scratch, across + c, decay)


@kernel
def transpose_rows(scratch, place, pitch, columns, target, target_pitch):
    """(LANES, columns) as (columns, LANES)."""
    for c in range(0, columns, LANES):
        transpose_block(scratch, place + c, pitch, scratch, target + c * target_pitch, target_pitch)


@kernel
def pairs_by_head(scratch, qk, pitch, decays, transposed, scores):
    """The scores of queries and keys with keys, (i, j), decayed from each step j to each later i;
    those of keys are of earlier steps alone."""
    one, zero = splat(scratch.dtype.type(1)), splat(scratch.dtype.type(0))
    transpose_rows(scratch, qk + LANES * pitch, pitch, pitch, transposed, LANES)
    product(
        scratch, qk, pitch, 1, pitch, scratch, transposed, LANES, scratch, scores, LANES,
        (2 * LANES, LANES),
    )  # fmt: skip
    row = zero
    for i in range(LANES):
        row = mul(row, splat(scratch[decays + i * pitch]))
        row = where(lanes_between(i, i + 1), one, where(lanes_between(0, i), row, zero))
        place = scores + i * LANES
        store(scratch, place, mul(row, load(scratch, place)))
        place += LANES * LANES
        earlier = mul(row, load(scratch, place))
        store(scratch, place, where(lanes_between(0, i), earlier, zero))


@kernel
def pairs_by_channel(scratch, qk, pitch, steps, decays, transposed, scores):
    """The scores of queries and keys, with a decay per channel.

    Lanes are the earlier steps: a row of `transposed` is a channel of the keys, decayed up to the
    later step, which walks.
    """
    one, zero = splat(scratch.dtype.type(1)), splat(scratch.dtype.type(0))
    keys = qk + LANES * pitch
    transpose_rows(scratch, keys, pitch, pitch, transposed, LANES)
    clear(scratch, scores, 2 * LANES * LANES)
    for i in range(steps):
        earlier = lanes_between(0, i)
        of_q, of_k = zero, zero
        for d in range(pitch):
            decay = where(earlier, splat(scratch[decays + i * pitch + d]), one)
            moved = mul(load(scratch, transposed + d * LANES), decay)
            store(scratch, transposed + d * LANES, moved)
            of_q = fma(moved, splat(scratch[qk + i * pitch + d]), of_q)
            of_k = fma(moved, splat(scratch[keys + i * pitch + d]), of_k)
        store(scratch, scores + i * LANES, where(lanes_between(0, i + 1), of_q, zero))
        place = scores + (LANES + i) * LANES
        store(scratch, place, where(earlier, of_k, zero))


@kernel
def add_scaled(scratch, target, source, factor, count):
    """A row += factor times a row."""
    factors = splat(factor)
    for c in range(0, count, LANES):
        sum_ = fma(factors, load(scratch, source + c), load(scratch, target + c))
        store(scratch, target + c, sum_)


@kernel
def decay_state(scratch, state, across, key, pitch):
    """Each row of a state times its channel's decay."""
    for d in range(key):
        scale_row(scratch, state + d * pitch, scratch[across + d], pitch)


@kernel
def subtract_rows(scratch, a, b, count):
    """Row b becomes a - b."""
    minus = splat(scratch.dtype.type(-1))
    for c in range(0, count, LANES):
        store(scratch, b + c, fma(minus, load(scratch, b + c), load(scratch, a + c)))

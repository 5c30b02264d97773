"""A step of a range of heads on the CPU, which reads each state once and writes it once."""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

import math

from keelback.compiled import LANES
from keelback.compiled.jit import entry_kernel, kernel
from keelback.compiled.simd import (
    fma,
    lanes_between,
    load_at,
    load_masked_at,
    mul,
    scalar_at,
    splat,
    store_at,
    store_masked_at,
    store_scalar_at,
    sum_lanes,
)


@kernel
def _advance(like, before, after, B, C, states, decay, entering):
    """The states of one number of a head, and their product with C."""
    size, whole = like.itemsize, states // LANES * LANES
    total = splat(like.dtype.type(0))
    for n in range(0, whole, LANES):
        at = n * size
        h = fma(entering, load_at(like, B + at), mul(decay, load_at(like, before + at)))
        store_at(after + at, h)
        total = fma(h, load_at(like, C + at), total)
    if whole < states:
        at, mask = whole * size, lanes_between(0, states - whole)
        held = mul(decay, load_masked_at(like, before + at, mask))
        h = fma(entering, load_masked_at(like, B + at, mask), held)
        store_masked_at(after + at, h, mask)
        total = fma(h, load_masked_at(like, C + at, mask), total)
    return sum_lanes(total)


@entry_kernel
def step_heads(like, addresses, strides, sizes, through_softplus, limits, start, stop):
    """Outputs and new states of the heads from `start` to `stop`, counted through all rows.

    `like` is an array of the dtype. Strides are in bytes; of what is absent the address is zero.
    """
    x_at, dt_at, A_at, B_at, C_at, D_at, z_at, bias_at, before_at, y_at, after_at = addresses
    of_x, of_dt, of_A, of_B, of_C, of_D, of_z, of_bias, of_before, of_after = strides
    heads, per_group, numbers, states = sizes
    zero, one = like.dtype.type(0), like.dtype.type(1)
    low, high = like.dtype.type(limits[0]), like.dtype.type(limits[1])
    for unit in range(start, stop):
        row, head = unit // heads, unit % heads
        raw = scalar_at(like, dt_at + row * of_dt[0] + head * of_dt[1])
        if bias_at != 0:
            raw += scalar_at(like, bias_at + head * of_bias[0])
        step = raw
        if through_softplus:
            step = max(raw, zero) + math.log1p(math.exp(-abs(raw)))
        step = low if step < low else high if step > high else step
        decay = splat(math.exp(step * scalar_at(like, A_at + head * of_A[0])))
        group = head // per_group
        B, C = B_at + row * of_B[0] + group * of_B[1], C_at + row * of_C[0] + group * of_C[1]
        before = before_at + row * of_before[0] + head * of_before[1]
        after = after_at + row * of_after[0] + head * of_after[1]
        for p in range(numbers):
            x = scalar_at(like, x_at + row * of_x[0] + head * of_x[1] + p * of_x[2])
            here, there = before + p * of_before[2], after + p * of_after[2]
            y = _advance(like, here, there, B, C, states, decay, splat(step * x))
            if D_at != 0:
                y += scalar_at(like, D_at + head * of_D[0] + p * of_D[1]) * x
            if z_at != 0:
                z = scalar_at(like, z_at + row * of_z[0] + head * of_z[1] + p * of_z[2])
                y *= z / (one + math.exp(-z))
            store_scalar_at(y_at + (unit * numbers + p) * like.itemsize, y)

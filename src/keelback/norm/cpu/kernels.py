"""The gated norm of a range of units: some rows of one replica, and all groups of their channels.

`x`, `gate` and `dy` are addresses, with the byte strides of (replica, outer, middle, inner); the
channels are adjacent. Outputs have no gaps. `sizes` are rows of a replica, the last two axes of
rows, groups, channels of a group, rows of a unit, and units of a replica. `how` says whether there
is a gate, whether it follows the norm, and whether its activation is the sigmoid alone. `like` is
an array of the dtype to compute in.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

import math

from keelback.compiled import LANES
from keelback.compiled.exponentials import logistic
from keelback.compiled.jit import entry_kernel, kernel
from keelback.compiled.simd import (
    fma,
    lanes_between,
    load_at,
    load_masked_at,
    mul,
    splat,
    store_at,
    store_masked_at,
    sum_lanes,
)


@kernel
def _load(like, address, lanes):
    """As many lanes as there are channels left; the others are zero."""
    if lanes >= LANES:
        return load_at(like, address)
    return load_masked_at(like, address, lanes_between(0, lanes))


@kernel
def _store(address, vector, lanes):
    if lanes >= LANES:
        store_at(address, vector)
    else:
        store_masked_at(address, vector, lanes_between(0, lanes))


@kernel
def _of_row(address, strides, replica, row, middle, inner):
    """Where a row begins."""
    replica_bytes, outer_bytes, middle_bytes, inner_bytes = strides
    begins = address + replica * replica_bytes + row % inner * inner_bytes
    return begins + row // inner // middle * outer_bytes + row // inner % middle * middle_bytes


@kernel
def _opened(gate, share, sigmoid):
    """The activation, from the gate and its logistic function."""
    return share if sigmoid else mul(gate, share)


@kernel
def _slope(like, gate, share, sigmoid):
    """The derivative of the activation."""
    closed = fma(splat(like.dtype.type(-1)), share, splat(like.dtype.type(1)))
    if sigmoid:
        return mul(share, closed)
    return mul(share, fma(gate, closed, splat(like.dtype.type(1))))


@entry_kernel
def normalise(
    like, x, x_strides, gate, gate_strides, weight, weight_replica, y, scales, sizes, epsilon, how,
    start, stop,
):  # fmt: skip
    """Outputs, and one over the root mean square of each group where `scales` is not zero."""
    rows, middle, inner, groups, count, chunk, chunks = sizes
    gated, before, sigmoid = how
    size, number = like.itemsize, like.dtype.type
    for unit in range(start, stop):
        replica, first = unit // chunks, unit % chunks * chunk
        for row in range(first, min(rows, first + chunk)):
            x_row = _of_row(x, x_strides, replica, row, middle, inner)
            gate_row = _of_row(gate, gate_strides, replica, row, middle, inner)
            for group in range(groups):
                skipped = group * count * size
                segment = (replica * rows + row) * groups + group
                out = y + segment * count * size
                weights = weight + replica * weight_replica + skipped
                numbers = x_row + skipped
                squares = splat(number(0))
                for c in range(0, count, LANES):
                    lanes = count - c
                    value = _load(like, numbers + c * size, lanes)
                    if gated and not before:
                        opening = _load(like, gate_row + skipped + c * size, lanes)
                        value = mul(value, _opened(opening, logistic(opening), sigmoid))
                        _store(out + c * size, value, lanes)
                    squares = fma(value, value, squares)
                if gated and not before:
                    numbers = out
                scale = number(1 / math.sqrt(number(sum_lanes(squares) / count) + epsilon))
                if scales != 0:
                    _store(scales + segment * size, splat(scale), 1)
                for c in range(0, count, LANES):
                    lanes = count - c
                    value = mul(_load(like, numbers + c * size, lanes), splat(scale))
                    value = mul(value, _load(like, weights + c * size, lanes))
                    if gated and before:
                        opening = _load(like, gate_row + skipped + c * size, lanes)
                        value = mul(value, _opened(opening, logistic(opening), sigmoid))
                    _store(out + c * size, value, lanes)


@entry_kernel
def gradients(
    like, x, x_strides, gate, gate_strides, dy, dy_strides, weight, weight_replica, scales, dx,
    dgate, dweight, sizes, how, start, stop,
):  # fmt: skip
    """Gradients of x and the gate, and of the weight for each unit, (unit, channel).

    Between the two passes over a row, `dx` and `dgate` hold the gradient of what is normalised,
    and the logistic function of the gate.
    """
    rows, middle, inner, groups, count, chunk, chunks = sizes
    gated, before, sigmoid = how
    size, number = like.itemsize, like.dtype.type
    for unit in range(start, stop):
        replica, first = unit // chunks, unit % chunks * chunk
        for row in range(first, min(rows, first + chunk)):
            x_row = _of_row(x, x_strides, replica, row, middle, inner)
            gate_row = _of_row(gate, gate_strides, replica, row, middle, inner)
            dy_row = _of_row(dy, dy_strides, replica, row, middle, inner)
            for group in range(groups):
                skipped = group * count * size
                segment = (replica * rows + row) * groups + group
                weights = weight + replica * weight_replica + skipped
                of_weights = dweight + unit * groups * count * size + skipped
                scale = _load(like, scales + segment * size, 1)
                scale = splat(sum_lanes(scale))
                products = splat(number(0))
                for c in range(0, count, LANES):
                    lanes, here = count - c, skipped + c * size
                    out = segment * count * size + c * size
                    value = mul(_load(like, x_row + here, lanes), scale)
                    slope = _load(like, dy_row + here, lanes)
                    weights_here = _load(like, weights + c * size, lanes)
                    if gated:
                        opening = _load(like, gate_row + here, lanes)
                        share = logistic(opening)
                        opened = _opened(opening, share, sigmoid)
                        if before:
                            of_gate = mul(slope, mul(value, weights_here))
                            of_gate = mul(of_gate, _slope(like, opening, share, sigmoid))
                            _store(dgate + out, of_gate, lanes)
                            slope = mul(slope, opened)
                        else:
                            _store(dgate + out, share, lanes)
                            value = mul(value, opened)
                    so_far = _load(like, of_weights + c * size, lanes)
                    _store(of_weights + c * size, fma(slope, value, so_far), lanes)
                    slope = mul(slope, weights_here)
                    products = fma(slope, value, products)
                    _store(dx + out, slope, lanes)
                mean = splat(number(-sum_lanes(products) / count))
                for c in range(0, count, LANES):
                    lanes, here = count - c, skipped + c * size
                    out = segment * count * size + c * size
                    given = _load(like, x_row + here, lanes)
                    value = mul(given, scale)
                    slope = _load(like, dx + out, lanes)
                    if gated and not before:
                        opening = _load(like, gate_row + here, lanes)
                        share = _load(like, dgate + out, lanes)
                        opened = _opened(opening, share, sigmoid)
                        slope = mul(scale, fma(mul(value, opened), mean, slope))
                        of_gate = mul(slope, mul(given, _slope(like, opening, share, sigmoid)))
                        _store(dgate + out, of_gate, lanes)
                        _store(dx + out, mul(slope, opened), lanes)
                    else:
                        _store(dx + out, mul(scale, fma(value, mean, slope)), lanes)

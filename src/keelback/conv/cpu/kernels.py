"""The causal depthwise convolution of a range of units: one row, a tile of channels.

Operands have the axes (replica, row, time, channel) with adjacent channels. `x` and `dy` come with
the byte strides of the first three axes; outputs have no gaps. Weights are (replica, tap, channel),
the tap of the present step first. `like` is an array of the dtype to compute in.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from keelback.compiled import LANES
from keelback.compiled.exponentials import logistic
from keelback.compiled.jit import entry_kernel, kernel
from keelback.compiled.simd import (
    add,
    fma,
    lanes_between,
    load_at,
    load_masked_at,
    mul,
    splat,
    store_at,
    store_masked_at,
)

TILE = 16 * LANES
"""Channels of a unit: what a unit reads of a few steps stays in the first-level cache."""


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
def _add_to(like, address, vector, lanes):
    _store(address, add(_load(like, address, lanes), vector), lanes)


@kernel
def _convolved(like, x, x_time, weight, tap_bytes, bias, taps, lanes):
    """One step of up to `LANES` channels; `x` is the address of the present step."""
    sum_ = _load(like, bias, lanes)
    for tap in range(taps):
        past = _load(like, x - tap * x_time, lanes)
        sum_ = fma(past, _load(like, weight + tap * tap_bytes, lanes), sum_)
    return sum_


@entry_kernel
def convolve(like, x, x_strides, weight, bias, y, sizes, width, chunk, silu, start, stop):
    """Outputs of the units from `start` to `stop`: (row, chunk of steps, tile)."""
    rows, length, channels = sizes
    x_replica, x_row, x_time = x_strides
    size = like.itemsize
    tap_bytes = channels * size
    tiles, chunks = -(-channels // TILE), -(-length // chunk)
    for unit in range(start, stop):
        first, piece, row = unit % tiles * TILE, unit // tiles % chunks, unit // tiles // chunks
        replica = row // rows
        of_row = x + replica * x_replica + row % rows * x_row
        for t in range(piece * chunk, min(length, (piece + 1) * chunk)):
            taps = min(width, t + 1)
            for c in range(first, min(channels, first + TILE), LANES):
                lanes = channels - c
                weights = weight + (replica * width * channels + c) * size
                biases = bias + (replica * channels + c) * size
                here = of_row + t * x_time + c * size
                sum_ = _convolved(like, here, x_time, weights, tap_bytes, biases, taps, lanes)
                if silu:
                    sum_ = mul(sum_, logistic(sum_))
                _store(y + ((row * length + t) * channels + c) * size, sum_, lanes)


@entry_kernel
def correlate(
    like, x, x_strides, dy, dy_strides, weight, bias, dx, dweight, dbias, sizes, width, silu,
    start, stop,
):  # fmt: skip
    """Gradients of the units from `start` to `stop`: (row, tile).

    `dweight` (row, tap, channel) and `dbias` (row, channel) are sums over the steps of a row, to
    which the units add.
    """
    rows, length, channels = sizes
    x_replica, x_row, x_time = x_strides
    dy_replica, dy_row, dy_time = dy_strides
    size = like.itemsize
    tap_bytes = channels * size
    tiles = -(-channels // TILE)
    one, minus = splat(like.dtype.type(1)), splat(like.dtype.type(-1))
    for unit in range(start, stop):
        first, row = unit % tiles * TILE, unit // tiles
        replica = row // rows
        x_of_row = x + replica * x_replica + row % rows * x_row
        dy_of_row = dy + replica * dy_replica + row % rows * dy_row
        for t in range(length):
            taps = min(width, t + 1)
            for c in range(first, min(channels, first + TILE), LANES):
                lanes = channels - c
                weights = weight + (replica * width * channels + c) * size
                here = x_of_row + t * x_time + c * size
                of_sum = _load(like, dy_of_row + t * dy_time + c * size, lanes)
                if silu:
                    biases = bias + (replica * channels + c) * size
                    sum_ = _convolved(like, here, x_time, weights, tap_bytes, biases, taps, lanes)
                    share = logistic(sum_)
                    slope = fma(mul(sum_, share), fma(minus, share, one), share)
                    of_sum = mul(of_sum, slope)
                _add_to(like, dbias + (row * channels + c) * size, of_sum, lanes)
                of_step = dx + ((row * length + t) * channels + c) * size
                _store(of_step, mul(of_sum, _load(like, weights, lanes)), lanes)
                for tap in range(taps):
                    to = dweight + ((row * width + tap) * channels + c) * size
                    _add_to(like, to, mul(of_sum, _load(like, here - tap * x_time, lanes)), lanes)
                    if tap:
                        w = _load(like, weights + tap * tap_bytes, lanes)
                        _add_to(like, of_step - tap * tap_bytes, mul(of_sum, w), lanes)

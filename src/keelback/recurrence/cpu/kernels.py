"""The diagonal recurrence of a range of units: a sequence, a tile of its channels.

Arrays are (sequence, time, channel) without gaps; states (sequence, channel).
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

import numpy as np

from keelback.compiled.jit import entry_kernel, kernel

TILE = 256
"""Channels of a unit: their states stay in the first-level cache."""


@kernel
def _states(a, x, first, h):
    """The states of one sequence's channels, written to `h`."""
    length, channels = x.shape
    for c in range(channels):
        h[0, c] = a[0, c] * first[c] + x[0, c]
    for t in range(1, length):
        for c in range(channels):
            h[t, c] = a[t, c] * h[t - 1, c] + x[t, c]


@entry_kernel
def recur(a, x, first, h, start, stop):
    """The states of the units from `start` to `stop`."""
    channels = x.shape[2]
    tiles = -(-channels // TILE)
    for unit in range(start, stop):
        row, begin = unit // tiles, unit % tiles * TILE
        end = min(channels, begin + TILE)
        _states(a[row, :, begin:end], x[row, :, begin:end], first[row, begin:end],
                h[row, :, begin:end])  # fmt: skip


@kernel
def _gradients(a, dh, before, carried, da, dx):
    """Of one step: from the states before it and what later steps say of the state after it."""
    for c in range(a.size):
        of_state = dh[c] + carried[c]
        dx[c] = of_state
        da[c] = of_state * before[c]
        carried[c] = of_state * a[c]


@entry_kernel
def recur_back(a, x, first, dh, da, dx, dfirst, start, stop):
    """The gradients of the units from `start` to `stop`; the states are computed again."""
    _, length, channels = x.shape
    tiles = -(-channels // TILE)
    states = np.empty((length, min(channels, TILE)), x.dtype)
    for unit in range(start, stop):
        row, begin = unit // tiles, unit % tiles * TILE
        end = min(channels, begin + TILE)
        h = states[:, : end - begin]
        _states(a[row, :, begin:end], x[row, :, begin:end], first[row, begin:end], h)
        carried = dfirst[row, begin:end]
        carried[:] = 0
        for t in range(length - 1, -1, -1):
            before = h[t - 1] if t else first[row, begin:end]
            _gradients(a[row, t, begin:end], dh[row, t, begin:end], before, carried,
                       da[row, t, begin:end], dx[row, t, begin:end])  # fmt: skip


@entry_kernel
def largest(k, w, first, found, start, stop):
    """The largest exponent of the weights after each step of the units from `start` to `stop`, max(
    earlier + w, k); all but the last are rounded up."""
    _, length, channels = k.shape
    tiles = -(-channels // TILE)
    exponents = np.empty(TILE, np.float64)
    for unit in range(start, stop):
        row, begin = unit // tiles, unit % tiles * TILE
        width = min(channels, begin + TILE) - begin
        for c in range(width):
            exponents[c] = first[row, begin + c]
        for t in range(length):
            for c in range(width):
                exponents[c] = max(exponents[c] + w[begin + c], k[row, t, begin + c])
                found[row, t, begin + c] = np.ceil(exponents[c])
        for c in range(width):
            found[row, length - 1, begin + c] = exponents[c]

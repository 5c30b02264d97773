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


@entry_kernel
def recur_back(a, x, first, dh, da, dx, dfirst, start, stop):
    """The gradients of the units from `start` to `stop`; the states are computed again."""
    _, length, channels = x.shape
    tiles = -(-channels // TILE)
    states = np.empty((length, min(channels, TILE)), x.dtype)
    for unit in range(start, stop):
        row, begin = unit // tiles, unit % tiles * TILE
        width = min(channels, begin + TILE) - begin
        h = states[:, :width]
        _states(a[row, :, begin : begin + width], x[row, :, begin : begin + width],
                first[row, begin : begin + width], h)  # fmt: skip
        carried = dfirst[row, begin : begin + width]
        carried[:] = 0
        for t in range(length - 1, -1, -1):
            before = h[t - 1] if t else first[row, begin : begin + width]
            for c in range(width):
                of_state = dh[row, t, begin + c] + carried[c]
                dx[row, t, begin + c] = of_state
                da[row, t, begin + c] = of_state * before[c]
                carried[c] = of_state * a[row, t, begin + c]

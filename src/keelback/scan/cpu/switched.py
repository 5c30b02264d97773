"""The switched scan of a range of units: one replica, a few rows, one block of `LANES` states.

The two tables of a block are copied into scratch memory, a row of lanes a token, so that a step of
the recurrence is two aligned loads and one multiplication with addition.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from keelback.compiled import LANES
from keelback.compiled.jit import entry_kernel, kernel
from keelback.compiled.simd import add, fma, load, mul, splat, store

ROWS = 32
"""Rows of a unit; its gradients are a partial sum of their own."""

_COPIES = 4
_SMALL = 16


@kernel
def count_copies(vocab):
    """How many sums a gradient is spread over, so that repeats of one token do not wait in line."""
    return _COPIES if vocab <= _SMALL else 1


@kernel
def read_tables(decay, drive, first, scratch):
    """Copy `LANES` states of both tables into scratch, from state `first` on; zero beyond them."""
    vocab, states = decay.shape
    width = min(LANES, states - first)
    scratch[: 2 * vocab * LANES] = 0
    for v in range(vocab):
        for lane in range(width):
            scratch[v * LANES + lane] = decay[v, first + lane]
            scratch[(vocab + v) * LANES + lane] = drive[v, first + lane]
    return width


@kernel
def place_of_unit(unit, rows, states):
    """The replica, the piece of its rows, and the first state of a unit."""
    blocks = -(-states // LANES)
    pieces = -(-rows // ROWS)
    piece = unit // blocks
    return piece // pieces, piece % pieces, unit % blocks * LANES


@entry_kernel
def count_outside(tokens, vocab):
    """How many tokens are not in 0, ..., vocab - 1."""
    outside = 0
    for token in tokens.flat:
        outside += (token < 0) | (token >= vocab)
    return outside


@entry_kernel
def switched_forward(tokens, decay, drive, last, scratch, start, stop):
    """States after the last token, of the units from `start` to `stop`."""
    _, rows, length = tokens.shape
    vocab, states = decay.shape[1:]
    result = 2 * vocab * LANES
    for unit in range(start, stop):
        replica, piece, first = place_of_unit(unit, rows, states)
        width = read_tables(decay[replica], drive[replica], first, scratch)
        for row in range(piece * ROWS, min(rows, (piece + 1) * ROWS)):
            h = splat(scratch.dtype.type(0))
            for t in range(length):
                here = tokens[replica, row, t] * LANES
                h = fma(load(scratch, here), h, load(scratch, vocab * LANES + here))
            store(scratch, result, h)
            for lane in range(width):
                last[replica, row, first + lane] = scratch[result + lane]


@entry_kernel
def switched_backward(dlast, tokens, decay, drive, ddecay, ddrive, scratch, start, stop):
    """Gradients of the two tables, a partial sum a piece, of the units from `start` to `stop`.

    Each row's states are computed again and kept while its gradient walks back.
    """
    _, rows, length = tokens.shape
    vocab, states = decay.shape[1:]
    table = vocab * LANES
    copies = count_copies(vocab)
    sums = 2 * table
    row_states = sums + 2 * copies * table
    incoming = row_states + length * LANES
    for unit in range(start, stop):
        replica, piece, first = place_of_unit(unit, rows, states)
        width = read_tables(decay[replica], drive[replica], first, scratch)
        scratch[sums:row_states] = 0
        scratch[incoming : incoming + LANES] = 0
        for row in range(piece * ROWS, min(rows, (piece + 1) * ROWS)):
            h = splat(scratch.dtype.type(0))
            for t in range(length):
                here = tokens[replica, row, t] * LANES
                store(scratch, row_states + t * LANES, h)
                h = fma(load(scratch, here), h, load(scratch, table + here))
            for lane in range(width):
                scratch[incoming + lane] = dlast[replica, row, first + lane]
            g = load(scratch, incoming)
            for t in range(length - 1, -1, -1):
                here = tokens[replica, row, t] * LANES
                own = sums + t % copies * 2 * table + here
                before = load(scratch, row_states + t * LANES)
                store(scratch, own, fma(g, before, load(scratch, own)))
                store(scratch, own + table, add(load(scratch, own + table), g))
                g = mul(g, load(scratch, here))
        for v in range(vocab):
            for lane in range(width):
                own = sums + v * LANES + lane
                total_decay = scratch[own]
                total_drive = scratch[own + table]
                for copy in range(1, copies):
                    total_decay += scratch[own + copy * 2 * table]
                    total_drive += scratch[own + copy * 2 * table + table]
                ddecay[replica, piece, v, first + lane] = total_decay
                ddrive[replica, piece, v, first + lane] = total_drive


def forward_scratch(vocab: int) -> int:
    """Elements of scratch that `switched_forward` needs."""
    return (2 * vocab + 1) * LANES


def backward_scratch(vocab: int, length: int) -> int:
    """Elements of scratch that `switched_backward` needs."""
    copies = count_copies.py_func(vocab)
    return (2 * vocab * (1 + copies) + length + 1) * LANES

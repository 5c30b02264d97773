"""What the kernels have in their scratch memory, and how steps are cut into chunks.

A chunk is up to `LANES` steps and ends before a reset. The state moves once per chunk, by products
of matrices.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from keelback.compiled import LANES
from keelback.compiled.jit import kernel
from keelback.compiled.simd import byte_at

PAIRS = 2 * LANES * LANES  # Of steps, for the queries and for the keys behind them.


def scratch_floats(key: int, value: int) -> int:
    """Floats of scratch that a thread needs."""
    k, v = padded(key), padded(value)
    return k * v + LANES * (10 * k + 4 * v) + 2 * PAIRS + LANES


def padded(size: int) -> int:
    """A multiple of the lanes."""
    return -(-size // LANES) * LANES


@kernel
def chunk_end(reset, start, length):
    """Where the chunk that starts at a step ends; `reset` is the address of the row's first step's
    mask, or zero."""
    end = min(start + LANES, length)
    if reset != 0:
        for t in range(start + 1, end):
            if byte_at(reset + t) != 0:
                return t
    return end


@kernel
def starts_anew(reset, start):
    """Whether the state before a step is zero."""
    return reset != 0 and byte_at(reset + start) != 0

"""What the kernels have in their scratch memory, and how steps are cut into chunks.

A chunk is up to `LANES` steps and ends before a reset. The state moves once per chunk, by products
of matrices. Chunks end with their segment, see `segments`.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from keelback.compiled import LANES
from keelback.compiled.jit import kernel
from keelback.compiled.simd import byte_at
from keelback.delta.cpu.segments import SEGMENT

PAIRS = 2 * LANES * LANES  # Of steps, for the queries and for the keys behind them.
#: States that the backward pass has of a segment: chunks that do not start anew lie so far apart.
STATES = SEGMENT // LANES


def scratch_floats(key: int, value: int) -> int:
    """Floats of scratch that a thread needs."""
    k, v = padded(key), padded(value)
    return k * v + LANES * (10 * k + 4 * v) + 2 * PAIRS + LANES


def backward_floats(key: int, value: int) -> int:
    """Floats of scratch that a thread needs for gradients."""
    k, v = padded(key), padded(value)
    return (STATES + 1) * k * v + LANES * (13 * k + 9 * v) + 2 * PAIRS + 2 * k


def padded(size: int) -> int:
    """A multiple of the lanes."""
    return -(-size // LANES) * LANES


@kernel
def chunk_end(reset, start, length):
    """Where the chunk that starts at a step ends; `reset` is the address of the row's first step's
    mask, or zero."""
    end = min(start + LANES, length, (start // SEGMENT + 1) * SEGMENT)
    if reset != 0:
        for t in range(start + 1, end):
            if byte_at(reset + t) != 0:
                return t
    return end


@kernel
def starts_anew(reset, start):
    """Whether the state before a step is zero."""
    return reset != 0 and byte_at(reset + start) != 0

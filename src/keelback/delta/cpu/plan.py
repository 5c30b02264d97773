"""What the kernels have in their scratch memory, and how steps are cut into chunks.

A chunk is up to `LANES` steps and ends before a reset. The state moves once per chunk, by products
of matrices. Chunks end with their segment, see `segments`.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from itertools import accumulate
from typing import Any, NamedTuple

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


class OfSequences(NamedTuple):
    """Something of each tensor that the backward pass reads or fills step by step."""

    q: Any
    k: Any
    decays: Any
    beta: Any
    errors: Any
    dy: Any
    dq: Any
    dk: Any
    dv: Any
    dlogs: Any
    dbeta: Any


class BackwardSizes(NamedTuple):
    """The sizes of a delta rule, and those of keys and values as they lie in scratch."""

    length: int
    heads: int
    per_group: int
    key: int
    value: int
    kp: int
    vp: int


class BackwardOptions(NamedTuple):
    """What the backward pass is told besides."""

    by_channel: bool
    normalise: bool
    erases: bool
    scale: float


class BackwardPlaces(NamedTuple):
    """Where in scratch the backward pass has what: (rows, columns) behind each."""

    state: int  # before chunks, STATES of them: (key, value) each
    dstate: int  # the gradient of the state that walks back: (key, value)
    qk: int  # (2 LANES, key)
    entered: int  # (2 LANES, key)
    left: int  # (LANES, key)
    decays: int  # (LANES, key)
    transposed: int  # (key, LANES)
    of_rows: int  # gradients of q, of k as it reads, and of k as it writes: (3 LANES, key)
    to_end: int  # (LANES, key)
    turned: int  # (key, 2 LANES)
    across: int  # (key,)
    tails: int  # (key,)
    scores: int  # (2 LANES, LANES)
    dscores: int  # (2 LANES, LANES)
    given: int  # gradients of outputs, and those of errors, with the other sign: (2 LANES, value)
    writes: int  # (LANES, value)
    errors: int  # (LANES, value)
    dwrites: int  # (LANES, value)
    writes_turned: int  # (value, LANES)
    given_turned: int  # (value, 2 LANES)
    end: int

    @classmethod
    def of(cls, key: int, value: int) -> "BackwardPlaces":
        """One behind the other."""
        k, v = padded(key), padded(value)
        of_keys = [LANES * k * rows for rows in (2, 2, 1, 1, 1, 3, 1, 2)]
        of_values = [LANES * v * rows for rows in (2, 1, 1, 1, 1, 2)]
        counts = [STATES * k * v, k * v, *of_keys, k, k, PAIRS, PAIRS, *of_values]
        return cls(*accumulate(counts, initial=0))


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

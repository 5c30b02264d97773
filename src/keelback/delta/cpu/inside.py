"""What the steps of a chunk have to do with each other, in the gradients of queries, keys and log
decays."""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from keelback.compiled import LANES
from keelback.compiled.jit import kernel
from keelback.compiled.simd import add, fma, load, mul, splat, store


@kernel
def gradients_inside(
    scratch, qk, decays, dscores, tails, of_rows, to_end, pitch, steps
):  # fmt: skip
    """The gradients of queries, keys and log decays.

    Args:
        dscores: The gradients of the scores, of which those of later steps with earlier ones count.
        tails: Per channel, of a log decay of the whole chunk: what comes from the state before.
        of_rows: Rows of gradients. Before, those of queries and keys in what they read from the
            state before the chunk, as it meets them there, without their decays; after, those of
            queries and keys. Behind them is room for `LANES` rows.
        to_end: Before, the gradients of keys in what they write into the state after the chunk,
            without their decays; after, those of the log decays.
    """
    for c in range(0, pitch, LANES):
        _decayed(scratch, decays + c, of_rows + c, to_end + c, pitch, steps)
        _of_pairs(scratch, qk + c, decays + c, dscores, of_rows + c, pitch, steps)
        _sum_up(scratch, qk + c, dscores, tails + c, of_rows + c, to_end + c, pitch, steps)


@kernel
def _decayed(scratch, decays, of_rows, to_end, pitch, steps):
    """Rows by the state before times the decays from there, those by the state after times the
    decays up to it."""
    one, zero = splat(scratch.dtype.type(1)), splat(scratch.dtype.type(0))
    decay = one
    for i in range(steps):
        decay = mul(decay, load(scratch, decays + i * pitch))
        for part in range(2):
            place = of_rows + (part * LANES + i) * pitch
            store(scratch, place, mul(decay, load(scratch, place)))
        store(scratch, of_rows + (2 * LANES + i) * pitch, zero)
    decay = one
    for i in range(steps - 1, -1, -1):
        place = to_end + i * pitch
        store(scratch, place, mul(decay, load(scratch, place)))
        decay = mul(decay, load(scratch, decays + i * pitch))


@kernel
def _of_pairs(scratch, qk, decays, dscores, of_rows, pitch, steps):
    """Adds what comes from the scores of each step with each earlier one."""
    keys = qk + LANES * pitch
    for i in range(1, steps):
        q, k = load(scratch, qk + i * pitch), load(scratch, keys + i * pitch)
        of_q = load(scratch, of_rows + i * pitch)
        of_k = load(scratch, of_rows + (LANES + i) * pitch)
        decay = splat(scratch.dtype.type(1))
        for j in range(i - 1, -1, -1):
            decay = mul(decay, load(scratch, decays + (j + 1) * pitch))
            by_q = splat(scratch[dscores + i * LANES + j])
            by_k = splat(scratch[dscores + (LANES + i) * LANES + j])
            moved = mul(decay, load(scratch, keys + j * pitch))
            of_q, of_k = fma(by_q, moved, of_q), fma(by_k, moved, of_k)
            place = of_rows + (2 * LANES + j) * pitch
            read = fma(by_q, q, mul(by_k, k))
            store(scratch, place, fma(decay, read, load(scratch, place)))
        store(scratch, of_rows + i * pitch, of_q)
        store(scratch, of_rows + (LANES + i) * pitch, of_k)


@kernel
def _sum_up(scratch, qk, dscores, tails, of_rows, to_end, pitch, steps):
    """The gradients themselves, where those of pairs of steps are known.

    The gradient of a step's log decay is a sum over the pairs of steps that it lies between. Of a
    pair, what is added at the later of the two is taken away at the earlier one, and a sum over
    later steps leaves what lies between. A step's pair with itself is left out of both, and so is
    what the last step writes, since its decay comes before.
    """
    minus = splat(scratch.dtype.type(-1))
    keys = qk + LANES * pitch
    total = load(scratch, tails)
    for i in range(steps - 1):
        total = fma(load(scratch, keys + i * pitch), load(scratch, to_end + i * pitch), total)
    for i in range(steps - 1, -1, -1):
        q, k = load(scratch, qk + i * pitch), load(scratch, keys + i * pitch)
        of_q = load(scratch, of_rows + i * pitch)
        read = load(scratch, of_rows + (LANES + i) * pitch)
        written = load(scratch, of_rows + (2 * LANES + i) * pitch)
        leaving = load(scratch, to_end + i * pitch)
        taken = written if i == steps - 1 else add(written, leaving)
        total = fma(q, of_q, fma(k, fma(minus, taken, read), total))
        store(scratch, to_end + i * pitch, total)
        itself = splat(scratch[dscores + i * LANES + i])
        store(scratch, of_rows + i * pitch, fma(itself, k, of_q))
        of_k = fma(itself, q, add(read, add(written, leaving)))
        store(scratch, of_rows + (LANES + i) * pitch, of_k)

"""Parts of one step of the adjoint, for one vector of lanes.

They have no branches: Numba would count references to the scratch array around a call that has.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
# Numba infers the types of these functions from their arguments.

from keelback.compiled import LANES
from keelback.compiled.jit import kernel
from keelback.compiled.simd import add, fma, load, mul, splat, store, where


@kernel
def carry_state_back(
    scratch, t, n, states, kept, belongs, constants, history, sums,
    step, driven, dy, b, c, dinput, dexponent,
):  # fmt: skip
    """Carry the adjoint of state n back through step t.

    Returns the gradients of B and C, lane by lane, and adds to those of the input and the exponent.
    """
    zero = splat(scratch.dtype.type(0.0))
    here = (t * states + n) * LANES
    decay = load(scratch, history.decays + here)
    h_before = load(scratch, history.states + here)
    h_after = load(scratch, history.states + here + states * LANES)
    g = fma(dy, c, load(scratch, sums.adjoint + n * LANES))
    db = where(belongs, mul(g, driven), zero)
    dc = where(belongs, mul(dy, h_after), zero)
    carried = mul(g, decay)
    h_before = where(kept, h_before, zero)
    carried = where(kept, carried, zero)
    grown = mul(mul(g, h_before), decay)
    dinput = fma(g, b, dinput)
    dexponent = fma(grown, load(scratch, constants.rates + n * LANES), dexponent)
    drate = fma(grown, step, load(scratch, sums.drates + n * LANES))
    store(scratch, sums.drates + n * LANES, drate)
    store(scratch, sums.adjoint + n * LANES, carried)
    return db, dc, dinput, dexponent


@kernel
def finish_step_back(scratch, t, constants, tiles, sums, u, step, dy, dinput, dstep):
    """Write ddelta and du to their tiles, and add to the gradients of delta_bias and D."""
    store(scratch, tiles.raw + t * LANES, dstep)
    store(scratch, sums.dbias, add(load(scratch, sums.dbias), dstep))
    store(scratch, sums.dskip, fma(dy, u, load(scratch, sums.dskip)))
    skip = load(scratch, constants.skip)
    store(scratch, tiles.u + t * LANES, fma(dinput, step, mul(dy, skip)))

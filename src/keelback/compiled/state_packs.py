"""How kernels of one step move states, in the packs of `headers/state_packs.cuh`."""

from collections.abc import Sequence

from keelback.compiled.layouts import Layout

WARP = 32
MOST_ROWS = 4
"""Outputs whose states a thread has at most."""
ENOUGH_THREADS = 512
"""Threads of a multiprocessor that are too few for more outputs to a thread."""
LARGEST = 2**31 - 1
"""Strides, and the threads of a launch, are counted in 32 bits."""


def packs_of(along_states: Sequence[Layout], states: int, most: int) -> tuple[int, int]:
    """The states that a thread moves at once, and the threads with those of one output.

    That is one state, or `most`, where all tensors have their states in such packs.
    """
    fit = states % most == 0 and all(x.in_packs(most) for x in along_states)
    vector = most if fit else 1
    return vector, min(WARP, 1 << max(-(-states // vector) - 1, 0).bit_length())

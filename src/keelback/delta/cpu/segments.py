"""Segments of a sequence: at the start of each the forward pass keeps the state for the backward
pass, which computes those between them again."""

from collections.abc import Sequence

SEGMENT = 64  # Steps, of several chunks.


def kept_shapes(values: Sequence[int], key: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the errors and of the states that are kept, where v has a shape (..., length, heads,
    value).

    An axis of segments alone would bind exported programs to lengths of one segment, or of more.
    """
    *rows, length, heads, value = values
    segments = (length + SEGMENT - 1) // SEGMENT
    return tuple(values), (*rows, segments * heads * key * value)

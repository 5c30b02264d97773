"""Sequences cut into chunks, and how many chunks are worked on at a time.

Letters of axes: r row (a head of a sequence), c chunk, t step of a chunk.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

#: How many times as much a GPU works on at a time: every operation is a launch there, and what lies
#: between two would not stay in a cache.
MORE_ON_GPU = 64


def parts(
    rows: int, chunks: int, numbers: int, at_a_time: int, device: torch.device, states: int = 0
) -> Iterator[tuple[slice, list[slice]]]:
    """Rows to work on at a time, and of these the chunks to work on at a time, in order.

    Args:
        rows, chunks: how many there are.
        numbers: how many a chunk of a row takes while it is worked on.
        at_a_time: how many may be taken, on a CPU.
        device: where they are.
        states: how many the states before a chunk take, which count on a GPU too.
    """
    if device.type == "cuda":
        at_a_time *= MORE_ON_GPU
        numbers = max(numbers, states)
    affordable = max(1, at_a_time // numbers)
    rows_at_a_time = min(rows, affordable)
    chunks_at_a_time = max(1, affordable // rows_at_a_time)
    firsts = range(0, chunks, chunks_at_a_time)
    of_rows = [slice(first, min(first + chunks_at_a_time, chunks)) for first in firsts]
    for row in range(0, rows, rows_at_a_time):
        yield slice(row, min(row + rows_at_a_time, rows)), of_rows


def cut(x: Tensor, chunk: int, filler: float = 0.0) -> Tensor:
    """(batch, length, heads, n) as r c t n, filled up to whole chunks."""
    filled = F.pad(x, (0, 0, 0, 0, 0, -x.shape[1] % chunk), value=filler).transpose(1, 2)
    return filled.reshape(-1, filled.shape[2] // chunk, chunk, x.shape[-1])


def by_step(x: Tensor, like: Tensor) -> Tensor:
    """r c t n as (batch, length, heads, n), without what filled up the last chunk."""
    batch, length, heads = like.shape[:3]
    return x.flatten(1, 2)[:, :length].unflatten(0, (batch, heads)).transpose(1, 2)

"""The delta rule in chunks: all that needs no state at once, then the states chunk by chunk."""

import torch
from torch import Tensor

from keelback.delta._operands import DeltaSizes, Operands, Options
from keelback.delta.chunked.blocks import Chunks, Inside


def states_through(
    inside: Inside, start: Tensor, before: Tensor | None = None, writes: Tensor | None = None
) -> Tensor:
    """The states after some chunks (r d p), from those before them.

    Args:
        before: Gets the states before each chunk, r c d p.
        writes: Gets what the steps write along their keys, r c t p.
    """
    h, across = start, inside.across
    for c in range(across.shape[1]):
        u = torch.baddbmm(inside.written[:, c], inside.erased[:, c], h, alpha=-1)
        if before is not None:
            before[:, c] = h
        if writes is not None:
            writes[:, c] = u
        h = torch.baddbmm(across[:, c] * h, inside.left_k[:, c].mT, u)
    return h


def start_of(given: Operands[Tensor]) -> Tensor:
    """The states before the first step, r d p."""
    sizes, start = DeltaSizes.of(given), given.initial_states
    if start is None:
        return given.v.new_zeros(sizes.batch * sizes.heads, sizes.key, sizes.value)
    return start.flatten(0, 1)


def by_step(x: Tensor, sizes: DeltaSizes) -> Tensor:
    """r c t n as (batch, length, heads, n), without what filled up the last chunk."""
    by_head = x.flatten(1, 2)[:, : sizes.length]
    return by_head.unflatten(0, (sizes.batch, sizes.heads)).transpose(1, 2)


def run_forward(given: Operands[Tensor], options: Options) -> tuple[Tensor, Tensor]:
    """Output and last states of a delta rule that is not empty."""
    sizes, chunks = DeltaSizes.of(given), Chunks.of(given, options)
    h = start_of(given)
    y, last = torch.empty_like(chunks.v), torch.empty_like(h)
    for rows, spans in chunks.parts():
        states = h[rows]
        for span in spans:
            inside = Inside.of(chunks.part(rows, span))
            shape = inside.across.shape[:2]
            before, writes = states.new_empty(*shape, *h.shape[1:]), torch.empty_like(y[rows, span])
            states = states_through(inside, states, before, writes)
            y[rows, span] = inside.entered_q @ before + inside.to_queries @ writes
        last[rows] = states
    return (
        by_step(y, sizes).contiguous(),
        last.unflatten(0, (sizes.batch, sizes.heads)),
    )

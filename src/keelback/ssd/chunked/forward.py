"""The scan by heads in chunks of matrix products.

Within a chunk the output is a masked product, (C B^T * decays) (dt x); between chunks the states
are passed on. Source: Dao and Gu 2024 (arXiv 2405.21060), section 6.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.ssd._operands import Operands, Options, SsdSizes
from keelback.ssd.chunked.blocks import (
    Block,
    across,
    by_group,
    by_matrix,
    by_time,
    grouped,
    parts_of,
    whole_block,
)
from keelback.ssd.chunked.steps import Prologue


def outputs_of(block: Block, before: Tensor) -> Tensor:
    """The outputs without skip and gate, from the states before the chunks: r c t g h p."""
    return within(block.scores(), block.decays(), block.driven()) + from_states(block, before)


def within(scores: Tensor, decays: Tensor, driven: Tensor) -> Tensor:
    """What steps of a chunk give to others of it."""
    return ((scores.unsqueeze(3) * decays) @ driven).movedim(4, 2)


def from_states(block: Block, before: Tensor) -> Tensor:
    """What the states before the chunks (r c g hp n) give to the outputs."""
    found = by_group(block.C) @ before.mT
    heads = block.x.shape[-2:]
    return by_group(found).unflatten(-1, heads) * by_time(block.entering())


def states_between(whole: Block, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states before every chunk (r c g hp n), and those after the last (r g hp n)."""
    rows, chunks, groups, heads, _ = whole.sizes.shape
    numbers, states = heads * whole.x.shape[-1], whole.B.shape[-1]
    before = whole.B.new_empty(rows, chunks, groups, numbers, states)
    for part in parts_of(whole):
        before[part] = Block.of(whole, *part).added_states()
    decays = across(whole).repeat_interleave(whole.x.shape[-1], dim=-1).unsqueeze(-1)
    h = before.new_zeros(rows, groups, numbers, states) if start is None else start.clone()
    for c in range(chunks):
        added = before[:, c].clone()
        before[:, c] = h
        h = torch.addcmul(added, decays[:, c], h)
    return before, h


def run_forward(given: Operands[Tensor], options: Options) -> tuple[Tensor, Tensor]:
    """Output and last states of a scan that is not empty."""
    sizes = SsdSizes.of(given)
    whole = whole_block(given, Prologue.of(given, options).sizes)
    before, last = states_between(whole, grouped(given.initial_states, sizes.groups))
    y = before_gate(given, whole, before)
    y = y.contiguous() if given.z is None else y * F.silu(given.z)
    return y, by_matrix(last, sizes.head_dim)


def before_gate(given: Operands[Tensor], whole: Block, before: Tensor) -> Tensor:
    """The outputs (batch, length, heads, head_dim) with the skip connection, without the gate."""
    y = all_outputs(whole, before, given.x.shape[1])
    return y if given.D is None else torch.addcmul(y, per_number(given.D), given.x)


def all_outputs(whole: Block, before: Tensor, length: int) -> Tensor:
    """The outputs without skip and gate, (batch, length, heads, head_dim)."""
    y = torch.empty_like(whole.x, memory_format=torch.contiguous_format)
    for part in parts_of(whole):
        y[part] = outputs_of(Block.of(whole, *part), before[part])
    return y.flatten(3, 4).flatten(1, 2)[:, :length]


def per_number(D: Tensor) -> Tensor:
    """D as it meets the numbers of a head."""
    return D.unsqueeze(-1) if D.ndim == 1 else D

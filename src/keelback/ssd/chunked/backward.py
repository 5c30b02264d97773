"""The gradients of the scan by heads in chunks; the letters are those of `blocks.Block`.

The states are computed again, and their gradients walk from the last chunk to the first.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from keelback.ssd._operands import Operands, Options, SsdSizes
from keelback.ssd.chunked.blocks import (
    Block,
    across,
    by_group,
    by_head,
    by_matrix,
    by_time,
    grouped,
    parts_of,
    whole_block,
)
from keelback.ssd.chunked.forward import before_gate, from_states, per_number, states_between
from keelback.ssd.chunked.steps import Prologue


@dataclass(frozen=True)
class Gradients:
    """Gradients of all chunks: of x, B, C as these lie, of the weights and logs (r c g h t)."""

    x: Tensor
    B: Tensor
    C: Tensor
    sizes: Tensor
    logs: Tensor

    def by_step(self, length: int) -> "Gradients":
        """Without chunks, by steps: of the log of each step's decay, which later steps all feel."""
        flat = (slice(None), slice(0, length))
        return Gradients(
            self.x.flatten(3, 4).flatten(1, 2)[flat],
            self.B.flatten(1, 2)[flat],
            self.C.flatten(1, 2)[flat],
            _by_step(self.sizes)[flat],
            _by_step(self.logs.flip(-1).cumsum(-1).flip(-1))[flat],
        )


def gradients_of(
    whole: Block, before: Tensor, dy: Tensor, dlast: Tensor | None
) -> tuple[Gradients, Tensor]:
    """The gradients of what the chunks hold, and of the states before the first (r g hp n).

    Args:
        before: The states before every chunk.
        dy: Of the outputs without skip and gate, as x lies.
        dlast: Of the states after the last step, r g hp n.
    """
    after, dstart = _adjoints_between(whole, dy, dlast)
    found = Gradients(
        *(torch.empty_like(one) for one in (whole.x, whole.B, whole.C)),
        *(torch.empty_like(whole.sizes) for _ in range(2)),
    )
    for part in parts_of(whole):
        _of_part(Block.of(whole, *part), dy[part], before[part], after[part], found, part)
    return found, dstart


def run_backward(
    given: Operands[Tensor], dy: Tensor | None, dlast: Tensor | None, options: Options
) -> Operands[Tensor]:
    """The gradients of every operand, from those of the output and of the last states."""
    sizes = SsdSizes.of(given)
    prologue = Prologue.of(given, options)
    whole = whole_block(given, prologue.sizes)
    before, _ = states_between(whole, grouped(given.initial_states, sizes.groups))
    dy = torch.zeros_like(given.x) if dy is None else dy
    dz = dgated = None
    if given.z is not None:
        y = before_gate(given, whole, before)
        gate = torch.sigmoid(given.z)
        dz = dy * y * gate * (1 + given.z * (1 - gate))
        dgated = dy * given.z * gate
    dskipped = dy if dgated is None else dgated
    dx, dD = _of_skip(given, dskipped)
    whole_dy = whole_block(given._replace(x=dskipped), prologue.sizes).x
    chunked, dstart = gradients_of(whole, before, whole_dy, grouped(dlast, sizes.groups))
    found = chunked.by_step(sizes.length)
    steps = prologue.sizes
    ddt = prologue.gradient(found.sizes + found.logs * given.A, options)
    return Operands(
        x=found.x if dx is None else found.x + dx,
        dt=ddt,
        A=(found.logs * steps).sum((0, 1)),
        B=found.B,
        C=found.C,
        D=dD,
        z=dz,
        dt_bias=None if given.dt_bias is None else ddt.sum((0, 1)),
        initial_states=(
            None if given.initial_states is None else by_matrix(dstart, sizes.head_dim)
        ),
    )


def _by_step(x: Tensor) -> Tensor:
    """r c g h t as (batch, length, heads)."""
    return x.movedim(4, 2).flatten(3, 4).flatten(1, 2)


def _of_skip(given: Operands[Tensor], dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What the skip connection adds to the gradient of x, and its own."""
    if given.D is None:
        return None, None
    products = (dy * given.x).sum((0, 1))
    return dy * per_number(given.D), products.sum(-1) if given.D.ndim == 1 else products


def _adjoints_between(whole: Block, dy: Tensor, dlast: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradients of the states after every chunk (r c g hp n), and before the first."""
    rows, chunks, groups, heads, _ = whole.sizes.shape
    head_dim = dy.shape[-1]
    numbers, states = heads * head_dim, whole.C.shape[-1]
    after = whole.C.new_empty(rows, chunks, groups, numbers, states)
    for part in parts_of(whole):
        block = Block.of(whole, *part)
        weighted = dy[part] * by_time(block.entering())
        after[part] = by_group(weighted.flatten(-2)).mT @ by_group(block.C)
    decays = across(whole).repeat_interleave(head_dim, dim=-1).unsqueeze(-1)
    g = after.new_zeros(rows, groups, numbers, states) if dlast is None else dlast.clone()
    for c in reversed(range(chunks)):
        added = after[:, c].clone()
        after[:, c] = g
        g = torch.addcmul(added, decays[:, c], g)
    return after, g


def _of_part(
    block: Block,
    dy: Tensor,
    before: Tensor,
    after: Tensor,
    found: Gradients,
    part: tuple[slice, slice],
) -> None:
    """The gradients of the operands of some chunks.

    The gradient of the log of a step's decay is a sum over the pairs that span it. Of pairs it is
    left to the caller's sum over later steps: what is added at the later of the two is taken away
    at the earlier one. A step's pair with itself spans nothing and is left out of both.
    """
    scores, decays, driven = block.scores(), block.decays(), block.driven()
    heads = dy.shape[-2:]
    dy_by_head = by_head(dy)
    # Within the chunk.
    dweights = (dy_by_head @ driven.mT).mul_(decays)  # of the scores, per head
    dscores = dweights.sum(3)
    pairs = dweights.mul_(scores.unsqueeze(3))
    pairs.diagonal(dim1=-2, dim2=-1).zero_()
    dlogs = pairs.sum(-1) - pairs.sum(-2)
    ddriven = decays.mul_(scores.unsqueeze(3)).mT @ dy_by_head
    dC = dscores @ by_group(block.B)
    dB = dscores.mT @ by_group(block.C)
    # From the states before the chunk.
    entered = from_states(block, before)
    dlogs += (dy_by_head * by_head(entered)).sum(-1)
    weighted = dy * by_time(block.entering())
    dC += by_group(weighted.flatten(-2)) @ before
    # To the states after it.
    leaving = block.leaving()
    to_end = by_group(by_group(block.B) @ after.mT).unflatten(-1, heads)
    ddriven += by_head(to_end) * leaving.unsqueeze(-1)
    left = (by_head(to_end) * driven).sum(-1) * leaving
    left[..., -1] = 0.0  # The last step's decay comes before what it adds.
    dlogs -= left
    passed = (before * after).unflatten(-2, heads).sum((-2, -1)) * across(block)
    dlogs[..., -1] += left.sum(-1) + passed
    given = block.x * by_time(block.sizes * leaving)
    dB += by_group(given.flatten(-2)) @ after
    found.x[part] = (ddriven * block.sizes.unsqueeze(-1)).movedim(4, 2)
    found.B[part], found.C[part] = by_group(dB), by_group(dC)
    found.sizes[part] = (ddriven * by_head(block.x)).sum(-1)
    found.logs[part] = dlogs

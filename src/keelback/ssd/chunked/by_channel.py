"""Gated linear attention with a decay per key channel, in chunks: on any device.

Within a chunk, what step j gives to a later step i goes through the middle of the smallest aligned
block that holds both, where i is in the right half and j in the left: the decay from j to the
middle times that from the middle to i. Both are products of decays of steps, which no division
makes larger. This is the secondary chunking of Yang et al. 2023 (arXiv 2312.06635, section 4.3),
with blocks that halve down to single steps.

Letters of axes: r row (a head of a sequence), c chunk, n block, t, i, j step, d key, p value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.chunks import by_step, cut, parts
from keelback.ssd._attention_operands import Operands

#: Steps of a chunk, at most; a power of two.
CHUNK = 64
#: Numbers of keys that are worked on at a time on a CPU.
NUMBERS_AT_A_TIME = 1 << 17
Part = tuple[slice, slice]


@dataclass(frozen=True)
class Chunks:
    """All chunks, or some: r c t d, values r c t p. `decays` are those of steps."""

    q: Tensor
    k: Tensor
    x: Tensor
    decays: Tensor

    @classmethod
    def of(cls, given: Operands[Tensor], inputs: Tensor) -> "Chunks":
        """Filled up to whole chunks with steps that change nothing; `inputs` lie as values do."""
        length, heads = given.v.shape[1:3]
        chunk = min(CHUNK, 1 << (length - 1).bit_length())
        q, k = (_by_head(one, heads) for one in (given.q, given.k))
        decays = given.g.exp()
        if given.reset is not None:
            decays = decays.masked_fill(given.reset[:, :, None, None], 0.0)
        q, k, x = (cut(one, chunk) for one in (q, k, inputs))
        return cls(q, k, x, cut(decays, chunk, 1.0))

    def part(self, part: Part) -> "Chunks":
        """Some of them."""
        return Chunks(self.q[part], self.k[part], self.x[part], self.decays[part])

    def parts(self) -> Iterator[tuple[slice, list[slice]]]:
        """Rows to work on at a time, and of these the chunks to work on at a time, in order."""
        rows, chunks, steps, keys = self.k.shape
        states = keys * self.x.shape[-1]
        return parts(rows, chunks, steps * keys, NUMBERS_AT_A_TIME, self.k.device, states)


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.repeat_interleave(heads // x.shape[2], dim=2)


@dataclass(frozen=True)
class _Level:
    """The pairs of steps in the two halves of blocks of one size: r c n t d, t in a half."""

    half: int
    from_middle: Tensor  # decays from the middle up to and with a step of the right half
    to_middle: Tensor  # decays of what follows a step of the left half

    def right(self, x: Tensor) -> Tensor:
        """The right halves of blocks of x, r c t n."""
        return x.unflatten(2, (-1, 2, self.half))[:, :, :, 1]

    def left(self, x: Tensor) -> Tensor:
        """The left halves."""
        return x.unflatten(2, (-1, 2, self.half))[:, :, :, 0]

    def pairs(self, scores: Tensor) -> Tensor:
        """Of r c i j, those with i in a block's right half and j in its left: r c n i j."""
        blocks = scores.unflatten(3, (-1, 2, self.half)).unflatten(2, (-1, 2, self.half))
        return blocks[:, :, :, 1, :, :, 0].diagonal(dim1=2, dim2=4).movedim(-1, 2)


@dataclass(frozen=True)
class _Inside:
    """The decays within chunks: between pairs of steps, and to and from the chunks' ends."""

    levels: list[_Level]
    entering: Tensor  # decays from the chunk's start up to and with each step, r c t d
    leaving: Tensor  # decays of what follows a step in its chunk

    @classmethod
    def of(cls, decays: Tensor) -> "_Inside":
        entering, leaving, levels, half = decays.clone(), torch.ones_like(decays), [], 1
        while half < decays.shape[2]:
            before, after = (x.unflatten(2, (-1, 2, half)) for x in (entering, leaving))
            levels.append(_Level(half, before[:, :, :, 1].clone(), after[:, :, :, 0].clone()))
            of_left, of_right = before[:, :, :, :, -1:].clone().unbind(3)
            before[:, :, :, 1] *= of_left
            after[:, :, :, 0] *= of_right
            half *= 2
        return cls(levels, entering, leaving)

    @property
    def across(self) -> Tensor:
        """Decays of whole chunks: r c d 1."""
        return self.entering[:, :, -1].unsqueeze(-1)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """q_i . (decays from j to i) k_j for j up to i, r c i j; zero for later j."""
        found = torch.diag_embed((q * k).sum(-1))
        for level in self.levels:
            readers = level.right(q) * level.from_middle
            writers = level.left(k) * level.to_middle
            level.pairs(found).copy_(readers @ writers.mT)
        return found


def _walk(chunks: Chunks, inside: _Inside, h: Tensor) -> tuple[Tensor, Tensor]:
    """The states before each chunk (r c d p) and after the last (r d p), from the first's."""
    before = (inside.leaving * chunks.k).mT @ chunks.x
    across = inside.across
    for c in range(across.shape[1]):
        written = before[:, c].clone()
        before[:, c] = h
        h = torch.addcmul(written, across[:, c], h)
    return before, h


def _start(given: Operands[Tensor], x: Tensor) -> Tensor:
    """The states before the first step, r d p."""
    if given.initial_states is None:
        return x.new_zeros(x.shape[0], given.k.shape[-1], x.shape[-1])
    return given.initial_states.flatten(0, 1).mT


def run_forward(given: Operands[Tensor]) -> tuple[Tensor, Tensor]:
    """Output and last states of an attention that is not empty."""
    chunks = Chunks.of(given, _weighted(given))
    start = _start(given, chunks.x)
    y, last = torch.empty_like(chunks.x), torch.empty_like(start)
    for rows, spans in chunks.parts():
        h = start[rows]
        for span in spans:
            part = chunks.part((rows, span))
            inside = _Inside.of(part.decays)
            before, h = _walk(part, inside, h)
            entered = (inside.entering * part.q) @ before
            y[rows, span] = entered + inside.scores(part.q, part.k) @ part.x
        last[rows] = h
    return by_step(y, given.v).contiguous(), _by_matrix(last, given.v)


def _weighted(given: Operands[Tensor]) -> Tensor:
    return given.v if given.weights is None else given.v * given.weights.unsqueeze(-1)


def _by_matrix(states: Tensor, v: Tensor) -> Tensor:
    """r d p as (batch, heads, value, key)."""
    return states.mT.unflatten(0, (v.shape[0], v.shape[2])).contiguous()


def run_backward(
    given: Operands[Tensor], dy: Tensor | None, dlast: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients of q, k, v, g, the weights and the initial states."""
    chunks = Chunks.of(given, _weighted(given))
    start = _start(given, chunks.x)
    of_outputs = cut(torch.zeros_like(given.v) if dy is None else dy, chunks.x.shape[2])
    of_last = torch.zeros_like(start) if dlast is None else dlast.flatten(0, 1).mT
    found = [torch.empty_like(x) for x in (chunks.q, chunks.k, chunks.x, chunks.decays)]
    dstart = torch.empty_like(start)
    for rows, spans in chunks.parts():
        starts, h = [], start[rows]
        for span in spans:
            starts.append(h)
            if span is not spans[-1]:
                part = chunks.part((rows, span))
                h = _walk(part, _Inside.of(part.decays), h)[1]
        g = of_last[rows]
        for span, h in zip(reversed(spans), reversed(starts), strict=True):
            part = chunks.part((rows, span))
            gradients, g = _of_part(part, h, of_outputs[rows, span], g)
            for whole, gradient in zip(found, gradients, strict=True):
                whole[rows, span] = gradient
        dstart[rows] = g
    dq, dk, dx, dlogs = (by_step(x, given.v) for x in found)
    if given.reset is not None:  # Nothing is left to decay there.
        dlogs = dlogs.masked_fill(given.reset[:, :, None, None], 0.0)
    groups = (given.k.shape[2], -1)
    dq, dk = (x.unflatten(2, groups).sum(3) for x in (dq, dk))
    dv, dweights = dx, None
    if given.weights is not None:
        dv, dweights = dx * given.weights.unsqueeze(-1), (dx * given.v).sum(-1)
    return dq, dk, dv, dlogs, dweights, _by_matrix(dstart, given.v)


def _of_part(chunks: Chunks, h: Tensor, dy: Tensor, g: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    """The gradients of q, k, x and log decays of some chunks, and of the states before them.

    That of a step's log decay is a sum over the pairs of an earlier and a later step which it is
    between, of what the pair adds to the gradient's product with either. For the pairs of two
    halves it is a sum over the readers that are not before a step of the right half, and over the
    writers before a step of the left half: nothing is taken away again.
    """
    q, k, x, inside = chunks.q, chunks.k, chunks.x, _Inside.of(chunks.decays)
    before, _ = _walk(chunks, inside, h)
    across, after = inside.across, (inside.entering * q).mT @ dy
    for c in reversed(range(across.shape[1])):
        read = after[:, c].clone()
        after[:, c] = g
        g = torch.addcmul(read, across[:, c], g)
    dx = inside.scores(q, k).mT @ dy + (inside.leaving * k) @ after
    dscores = dy @ x.mT
    # Through the states: readers of what was there before, writers of what is there after.
    dq, dk = inside.entering * (dy @ before.mT), inside.leaving * (x @ after.mT)
    dlogs = _from_here(q * dq) + _before_here(k * dk)
    dlogs += (across * before * after).sum(-1).unsqueeze(2)
    for level in inside.levels:
        pairs = level.pairs(dscores)
        readers = level.right(q) * level.from_middle
        writers = level.left(k) * level.to_middle
        of_readers, of_writers = pairs @ writers, pairs.mT @ readers
        level.right(dlogs).add_(_from_here(readers * of_readers, 3))
        level.left(dlogs).add_(_before_here(writers * of_writers, 3))
        level.right(dq).add_(of_readers.mul_(level.from_middle))
        level.left(dk).add_(of_writers.mul_(level.to_middle))
    own = dscores.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return (dq + own * k, dk + own * q, dx, dlogs), g


def _from_here(x: Tensor, axis: int = 2) -> Tensor:
    """Sums over each step and all later ones."""
    return x.flip(axis).cumsum(axis).flip(axis)


def _before_here(x: Tensor, axis: int = 2) -> Tensor:
    """Sums over all steps before each."""
    first = torch.zeros_like(x.narrow(axis, 0, 1))
    return torch.cat([first, x.cumsum(axis).narrow(axis, 0, x.shape[axis] - 1)], axis)

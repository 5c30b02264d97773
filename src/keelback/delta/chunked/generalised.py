"""The generalised delta rule in chunks: what a step erases along is not what it writes along.

Letters of axes: r row (a head of a sequence), c chunk, i, j, t step of a chunk, d key, p value.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.compiled.by_rows import ByRows
from keelback.compiled.chunks import by_step, cut, parts
from keelback.compiled.decay import exp_
from keelback.compiled.layouts import Signature, layouts_of
from keelback.delta._generalised_operands import Operands
from keelback.delta.chunked.inverse import inverse_of_unit_lower

#: Half precision is widened before.
WIDENS = False
#: Steps of a chunk, at most: where decays between its steps are products of two factors, and where
#: each is computed by itself. Multiples of 16.
CHUNK, CHUNK_OF_PAIRS = 64, 16
#: Logs of decays since a chunk's start whose factors are far from overflow.
_FARTHEST_LOG = {torch.float32: 40.0, torch.float64: 300.0}
#: Numbers of the decays between the steps of chunks that are worked on at a time on a CPU.
NUMBERS_AT_A_TIME = 1 << 18
#: exp of less is zero in float32; as logs of this size they do not spoil what is added to them.
_SMALLEST_LOG = {torch.float32: -104.0, torch.float64: -746.0}
Part = tuple[slice, slice]


@dataclass(frozen=True)
class Chunks:
    """All chunks, or some: r c t d, values r c t p; epochs are counts of resets, r c t."""

    q: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor
    logs: Tensor  # of decays from the chunk's start up to and with each step, float64
    epochs: Tensor | None
    by_factors: bool  # whether decays between steps are products of two factors

    @classmethod
    def of(cls, given: Operands[Tensor]) -> "Chunks":
        """Filled up to whole chunks with steps that change nothing."""
        chunk = next((size for size in (16, 32) if size >= given.v.shape[1]), CHUNK)
        logs = _logs(given, chunk)
        by_factors = float(logs.abs().amax()) <= _FARTHEST_LOG[given.v.dtype]
        if not by_factors:
            chunk, logs = CHUNK_OF_PAIRS, _logs(given, CHUNK_OF_PAIRS)
        heads = given.v.shape[2]
        q, k, v, a, b = (cut(x, chunk) for x in (given.q, given.k, given.v, given.a, given.b))
        epochs = None
        if given.reset is not None:
            filled = F.pad(given.reset, (0, -given.reset.shape[1] % chunk))
            counted = filled.unflatten(1, (-1, chunk)).long().cumsum(2)
            epochs = counted.repeat_interleave(heads, dim=0)
        return cls(q, k, v, a, b, logs, epochs, by_factors)

    def part(self, part: Part) -> "Chunks":
        """Some of them."""
        found = [x[part] if isinstance(x, Tensor) else x for x in vars(self).values()]
        return Chunks(*found)  # type: ignore[arg-type]

    def parts(self) -> Iterator[tuple[slice, list[slice]]]:
        """Rows to work on at a time, and of these the chunks to work on at a time, in order."""
        rows, chunks, steps, keys = self.k.shape
        numbers = steps * steps * (1 if self.by_factors else keys)
        states = keys * self.v.shape[-1]
        return parts(rows, chunks, numbers, NUMBERS_AT_A_TIME, self.k.device, states)


def _logs(given: Operands[Tensor], chunk: int) -> Tensor:
    """Of the decays from the start of each chunk, r c t d, float64."""
    return cut(given.g, chunk).double().clamp(min=_SMALLEST_LOG[given.v.dtype]).cumsum(2)


def _apart(chunks: Chunks, diagonal: int) -> Tensor:
    """The pairs of steps (i, j) of which j gives nothing to i: it is after i + diagonal, or in
    another sequence."""
    steps = chunks.logs.shape[2]
    found = torch.ones(steps, steps, dtype=torch.bool, device=chunks.k.device).triu(diagonal + 1)
    if chunks.epochs is None:
        return found
    return found | (chunks.epochs.unsqueeze(-1) != chunks.epochs.unsqueeze(-2))


class _Pairs:
    """Decays from each step j of a chunk to each later step i, one by one."""

    def __init__(self, chunks: Chunks, logs: Tensor, diagonal: int) -> None:
        """`logs` are of where the steps read; j up to i + diagonal are before it."""
        found = (logs.unsqueeze(-2) - chunks.logs.unsqueeze(-3)).to(chunks.k.dtype)
        apart = _apart(chunks, diagonal).unsqueeze(-1)
        self._decays = exp_(found.masked_fill_(apart, -torch.inf))  # r c i j d

    def scores(self, left: Tensor, right: Tensor) -> Tensor:
        """left_i . (decays from j to i) right_j: r c i j."""
        return ((self._decays * right.unsqueeze(-3)) @ left.unsqueeze(-1)).squeeze(-1)

    def of_left(self, dscores: Tensor, right: Tensor) -> Tensor:
        """The gradient of `left`, from that of the scores."""
        return (dscores.unsqueeze(-2) @ (self._decays * right.unsqueeze(-3))).squeeze(-2)

    def of_right(self, dscores: Tensor, left: Tensor) -> Tensor:
        """The gradient of `right`."""
        return (self._decays * left.unsqueeze(-2)).mul_(dscores.unsqueeze(-1)).sum(-3)


class _Factors:
    """The same, where no factor overflows: exp(of i) / exp(of j), both seen from mid-chunk."""

    def __init__(self, chunks: Chunks, logs: Tensor, diagonal: int) -> None:
        dtype, middle = chunks.k.dtype, chunks.logs[:, :, chunks.logs.shape[2] // 2, None]
        self._left = exp_((logs - middle).to(dtype))  # r c i d
        self._right = exp_((middle - chunks.logs).to(dtype))  # r c j d
        self._apart = _apart(chunks, diagonal)

    def scores(self, left: Tensor, right: Tensor) -> Tensor:
        """left_i . (decays from j to i) right_j: r c i j."""
        found = (left * self._left) @ (right * self._right).mT
        return found.masked_fill_(self._apart, 0.0)

    def of_left(self, dscores: Tensor, right: Tensor) -> Tensor:
        """The gradient of `left`, from that of the scores."""
        present = dscores.masked_fill(self._apart, 0.0)
        return (present @ (right * self._right)).mul_(self._left)

    def of_right(self, dscores: Tensor, left: Tensor) -> Tensor:
        """The gradient of `right`."""
        present = dscores.masked_fill(self._apart, 0.0)
        return (present.mT @ (left * self._left)).mul_(self._right)


@dataclass(frozen=True)
class _Inside:
    """What chunks hold before the states that enter them are known.

    With h the states before a chunk, its steps read `u = inverse (k_to_a v + entered_a h)` along a
    and write it along b: the WY form (Yang et al. 2024, arXiv 2406.06484, section 3.2), with a
    decay per key channel and two vectors instead of one.
    """

    reads: _Pairs | _Factors  # of q, after its step
    erasures: _Pairs | _Factors  # of a, before its step
    k_to_q: Tensor  # r c i j
    b_to_q: Tensor
    k_to_a: Tensor
    inverse: Tensor  # of 1 - scores of a and b
    entering_q: Tensor  # decays from the chunk's start, r c t d
    entering_a: Tensor
    leaving: Tensor  # decays to the chunk's end

    @classmethod
    def of(cls, chunks: Chunks) -> "_Inside":
        logs, dtype, epochs = chunks.logs, chunks.k.dtype, chunks.epochs
        before = F.pad(logs[:, :, :-1], (0, 0, 1, 0))
        kind = _Factors if chunks.by_factors else _Pairs
        reads, erasures = kind(chunks, logs, 0), kind(chunks, before, -1)
        decays = [exp_(x.to(dtype, copy=True)) for x in (logs, before, logs[:, :, -1:] - logs)]
        if epochs is not None:
            begun, ended = (epochs != 0).unsqueeze(-1), (epochs != epochs[:, :, -1:]).unsqueeze(-1)
            decays = [
                x.masked_fill_(y, 0.0) for x, y in zip(decays, (begun, begun, ended), strict=True)
            ]
        return cls(
            reads,
            erasures,
            reads.scores(chunks.q, chunks.k),
            reads.scores(chunks.q, chunks.b),
            erasures.scores(chunks.a, chunks.k),
            inverse_of_unit_lower(-erasures.scores(chunks.a, chunks.b)),
            *decays,
        )

    @property
    def across(self) -> Tensor:
        """Decays of whole chunks: r c d 1."""
        return self.entering_q[:, :, -1].unsqueeze(-1)


def _walk(chunks: Chunks, inside: _Inside, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The states before each chunk (r c d p), what steps read along a (r c t p), and the states
    after the last chunk (r d p), from those before the first."""
    read = inside.inverse @ (inside.k_to_a @ chunks.v)
    of_states = inside.inverse @ (inside.entering_a * chunks.a)
    left_k, left_b = inside.leaving * chunks.k, inside.leaving * chunks.b
    written, across = left_k.mT @ chunks.v, inside.across
    before = torch.empty_like(written)
    for c in range(across.shape[1]):
        before[:, c] = h
        read[:, c] += of_states[:, c] @ h
        h = torch.addcmul(written[:, c], across[:, c], h)
        h = torch.baddbmm(h, left_b[:, c].mT, read[:, c])
    return before, read, h


def _start(given: Operands[Tensor]) -> Tensor:
    """The states before the first step."""
    if given.initial_states is not None:
        return given.initial_states
    batch, _, heads, value = given.v.shape
    return given.v.new_zeros(batch, heads, given.k.shape[-1], value)


def run_forward(given: Operands[Tensor]) -> tuple[Tensor, Tensor]:
    """Output and last states of a rule that is not empty."""
    chunks, start = Chunks.of(given), _start(given).flatten(0, 1)
    y, last = torch.empty_like(chunks.v), torch.empty_like(start)
    for rows, spans in chunks.parts():
        h = start[rows]
        for span in spans:
            part = chunks.part((rows, span))
            inside = _Inside.of(part)
            before, read, h = _walk(part, inside, h)
            entered = (inside.entering_q * part.q) @ before
            y[rows, span] = entered + inside.k_to_q @ part.v + inside.b_to_q @ read
        last[rows] = h
    return by_step(y, given.v).contiguous(), last.unflatten(0, given.v.shape[::2][:2])


def run_backward(
    given: Operands[Tensor], dy: Tensor | None, dlast: Tensor | None
) -> tuple[Tensor, ...]:
    """The gradients of q, k, v, a, b, g and the initial states."""
    chunks, start = Chunks.of(given), _start(given).flatten(0, 1)
    of_outputs = cut(torch.zeros_like(given.v) if dy is None else dy, chunks.v.shape[2])
    of_last = torch.zeros_like(start) if dlast is None else dlast.flatten(0, 1)
    found = [torch.empty_like(x) for x in (chunks.q, chunks.k, chunks.v, chunks.a, chunks.b)]
    found.append(torch.empty_like(chunks.k))
    dstart = torch.empty_like(start)
    for rows, spans in chunks.parts():
        h, starts = start[rows], []
        for span in spans[:-1]:
            starts.append(h)
            part = chunks.part((rows, span))
            h = _walk(part, _Inside.of(part), h)[2]
        starts.append(h)
        g = of_last[rows]
        for span, h in zip(reversed(spans), reversed(starts), strict=True):
            part = chunks.part((rows, span))
            gradients, g = _of_part(part, h, of_outputs[rows, span], g)
            for whole, gradient in zip(found, gradients, strict=True):
                whole[rows, span] = gradient
        dstart[rows] = g
    *floating, dlogs = (by_step(x, given.v) for x in found)
    if given.reset is not None:  # Nothing is left to decay there.
        dlogs = dlogs.masked_fill(given.reset[:, :, None, None], 0.0)
    return (*floating, dlogs, dstart.unflatten(0, given.v.shape[::2][:2]))


def _of_part(chunks: Chunks, h: Tensor, dy: Tensor, g: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """The gradients of the operands of some chunks, and of the states before them.

    The gradient of a step's log decay is a sum over the pairs of steps that it lies between. Of a
    pair, what is added at the later of the two is taken away at the earlier one, and a sum over
    later steps leaves what lies between.
    """
    inside = _Inside.of(chunks)
    q, k, v, a, b = chunks.q, chunks.k, chunks.v, chunks.a, chunks.b
    before, read, _ = _walk(chunks, inside, h)
    # Back through the chunks: of what steps read along a, and of the states.
    of_states = inside.inverse @ (inside.entering_a * a)
    left_b, across = inside.leaving * b, inside.across
    dread, dbefore = inside.b_to_q.mT @ dy, (inside.entering_q * q).mT @ dy
    after = torch.empty_like(dbefore)
    for c in reversed(range(across.shape[1])):
        after[:, c] = g
        dread[:, c] += left_b[:, c] @ g
        g = torch.addcmul(dbefore[:, c], across[:, c], g)
        g = torch.baddbmm(g, of_states[:, c].mT, dread[:, c])
    solved = inside.inverse.mT @ dread
    # Of the operands.
    from_k, from_b = (dy @ v.mT).tril_(), (dy @ read.mT).tril_()  # scores of q
    a_from_k, a_from_b = (solved @ v.mT).tril_(-1), (solved @ read.mT).tril_(-1)
    reads, erasures, leaving = inside.reads, inside.erasures, inside.leaving
    dq = reads.of_left(from_k, k) + reads.of_left(from_b, b)
    dq += inside.entering_q * (dy @ before.mT)
    da = erasures.of_left(a_from_k, k) + erasures.of_left(a_from_b, b)
    da += inside.entering_a * (solved @ before.mT)
    k_to_end, b_to_end = leaving * (v @ after.mT), leaving * (read @ after.mT)
    dk = reads.of_right(from_k, q) + erasures.of_right(a_from_k, a) + k_to_end
    db = reads.of_right(from_b, q) + erasures.of_right(a_from_b, a) + b_to_end
    dv = inside.k_to_q.mT @ dy + inside.k_to_a.mT @ solved + (leaving * k) @ after
    # Of the logs from the chunk's start: those of a end before its own step.
    ahead, dlogs = a * da, q * dq - k * dk - b * db
    dlogs[:, :, -1] += (k * k_to_end + b * b_to_end).sum(2)
    dlogs[:, :, -1] += (across * before * after).sum(-1)
    dlogs = (dlogs + ahead).flip(2).cumsum(2).flip(2) - ahead
    return (dq, dk, dv, da, db, dlogs), g


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[Any, ...]) -> ByRows:
    """The rules of operands with this signature; there are no options."""
    given: Any = Operands(*layouts_of(signature))
    return ByRows(Operands, given.v, _start, run_forward, run_backward)

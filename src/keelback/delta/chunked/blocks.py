"""A delta rule cut into chunks, and what a chunk holds before the states that enter it are known.

Letters of axes: r row (a head of a sequence), c chunk, t, i, j step of a chunk, d key, p value. A
decay per head is one per key channel with an axis d of one, here and in the gradients.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.compiled.chunks import parts
from keelback.compiled.decay import exp_
from keelback.delta._operands import DeltaSizes, Operands, Options
from keelback.delta.chunked.inverse import inverse_of_unit_lower
from keelback.delta.reference import normalised

#: Steps of a chunk, with a decay per head and with one per key channel: multiples of 16.
CHUNK, CHUNK_OF_CHANNELS = 64, 16
#: Numbers of the decays between the steps of chunks that are worked on at a time on a CPU.
NUMBERS_AT_A_TIME = 1 << 18
#: exp of less is zero in float32; as logs of this size they do not spoil what is added to them.
_SMALLEST_LOG = {torch.float32: -104.0, torch.float64: -746.0}


@dataclass(frozen=True)
class Chunks:
    """All chunks, or some: queries are scaled, queries and keys normalised if they are to be."""

    q: Tensor  # r c t d
    k: Tensor
    v: Tensor  # r c t p
    beta: Tensor  # r c t 1
    logs: Tensor  # of decays from the chunk's start up to and with each step, float64: r c t d
    epochs: Tensor | None  # resets in the chunk up to and with each step: r c t

    @classmethod
    def of(cls, given: Operands[Tensor], options: Options) -> "Chunks":
        """Filled up to whole chunks with steps that change nothing."""
        normalise, _, scale = options
        sizes, g = DeltaSizes.of(given), given.g
        chunk = CHUNK_OF_CHANNELS if g.ndim == 4 and sizes.key > 1 else CHUNK
        lacking = -sizes.length % chunk

        def cut(x: Tensor) -> Tensor:
            by_head = F.pad(x, (0, 0, 0, 0, 0, lacking)).transpose(1, 2)
            return by_head.reshape(-1, (sizes.length + lacking) // chunk, chunk, x.shape[-1])

        q, k = (normalised(x) if normalise else x for x in (given.q, given.k))
        q, k = (x.repeat_interleave(sizes.heads_per_group, dim=2) for x in (q * scale, k))
        steps = cut(g if g.ndim == 4 else g.unsqueeze(-1)).double()
        epochs = None
        if given.reset is not None:
            counted = F.pad(given.reset, (0, lacking)).unflatten(1, (-1, chunk)).long().cumsum(2)
            epochs = counted.repeat_interleave(sizes.heads, dim=0)
        return cls(
            cut(q),
            cut(k),
            cut(given.v),
            cut(given.beta.unsqueeze(-1)),
            steps.clamp(min=_SMALLEST_LOG[given.v.dtype]).cumsum(2),
            epochs,
        )

    def part(self, rows: slice, chunks: slice) -> "Chunks":
        """Some of them."""
        found = [None if x is None else x[rows, chunks] for x in vars(self).values()]
        return Chunks(*found)  # type: ignore[arg-type]

    def parts(self) -> Iterator[tuple[slice, list[slice]]]:
        """Rows to work on at a time, and of these the chunks to work on at a time, in order."""
        rows, chunks, steps, keys = self.k.shape
        numbers = steps * steps * self.logs.shape[-1]
        states = keys * self.v.shape[-1]
        return parts(rows, chunks, numbers, NUMBERS_AT_A_TIME, self.k.device, states)


class Pairs:
    """The decays from each step j of a chunk to each later step i, zero where i is before j."""

    def __init__(self, chunks: Chunks) -> None:
        logs = chunks.logs
        found = (logs.unsqueeze(-2) - logs.unsqueeze(-3)).to(chunks.k.dtype)
        steps = logs.shape[2]
        apart = torch.ones(steps, steps, dtype=torch.bool, device=logs.device).triu(1)
        if chunks.epochs is not None:
            apart = apart | (chunks.epochs.unsqueeze(-1) != chunks.epochs.unsqueeze(-2))
        found = exp_(found.masked_fill_(apart.unsqueeze(-1), -torch.inf))
        self._by_channel = found.shape[-1] > 1
        self._decays = found if self._by_channel else found.squeeze(-1)

    def scores(self, left: Tensor, right: Tensor) -> Tensor:
        """left_i . (decays from j to i) right_j: r c i j."""
        if self._by_channel:
            moved = self._decays * right.unsqueeze(-3)
            return (moved @ left.unsqueeze(-1)).squeeze(-1)
        return (left @ right.mT).mul_(self._decays)

    def of_left(self, dscores: Tensor, right: Tensor) -> Tensor:
        """The gradient of `left`, from that of the scores."""
        if self._by_channel:
            moved = self._decays * right.unsqueeze(-3)
            return (dscores.unsqueeze(-2) @ moved).squeeze(-2)
        return (dscores * self._decays) @ right

    def of_right(self, dscores: Tensor, left: Tensor) -> Tensor:
        """The gradient of `right`."""
        if self._by_channel:
            return (self._decays * left.unsqueeze(-2)).mul_(dscores.unsqueeze(-1)).sum(-3)
        return (dscores * self._decays).mT @ left


@dataclass(frozen=True)
class Inside:
    """What chunks hold before the states that enter them are known (the WY form).

    With h the states before a chunk, its steps write `k_j u_j^T` where `u = written - erased h`.
    Source: Yang et al. 2024 (arXiv 2406.06484), section 3.2, with the decays of arXiv 2412.06464.
    """

    pairs: Pairs
    among_keys: Tensor  # scores of k_i and k_j, j before i: r c i j
    to_queries: Tensor  # scores of q_i and k_j, j up to i
    inverse: Tensor  # of 1 + beta_i among_keys: r c i j
    entering: Tensor  # decays from the chunk's start to each step: r c t d
    leaving: Tensor  # decays from each step to the chunk's end
    entered_k: Tensor  # r c t d, entering times k
    entered_q: Tensor
    left_k: Tensor  # leaving times k
    written: Tensor  # r c t p
    erased: Tensor  # r c t d

    @classmethod
    def of(cls, chunks: Chunks) -> "Inside":
        """Of some chunks."""
        q, k, logs, dtype = chunks.q, chunks.k, chunks.logs, chunks.k.dtype
        pairs = Pairs(chunks)
        entering = exp_(logs.to(dtype, copy=True))
        leaving = exp_((logs[:, :, -1:] - logs).to(dtype))
        if chunks.epochs is not None:
            epochs = chunks.epochs.unsqueeze(-1)
            entering = entering.masked_fill_(epochs != 0, 0.0)
            leaving = leaving.masked_fill_(epochs != epochs[:, :, -1:], 0.0)
        among_keys = pairs.scores(k, k).tril_(-1)
        inverse = inverse_of_unit_lower(chunks.beta * among_keys)
        entered_k = entering * k
        return cls(
            pairs,
            among_keys,
            pairs.scores(q, k),
            inverse,
            entering,
            leaving,
            entered_k,
            entering * q,
            leaving * k,
            inverse @ (chunks.beta * chunks.v),
            inverse @ (chunks.beta * entered_k),
        )

    @property
    def across(self) -> Tensor:
        """Decays of whole chunks: r c d 1."""
        return self.entering[:, :, -1].unsqueeze(-1)

"""A scan by heads cut into chunks."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.compiled.chunks import parts
from keelback.compiled.decay import exp_
from keelback.ssd._operands import Operands

CHUNK = 64
#: Numbers of the decays between the steps of chunks that are worked on at a time on a CPU.
NUMBERS_AT_A_TIME = 1 << 18
#: exp of less is zero in float32; as logs of this size they do not spoil what is added to them.
_SMALLEST_LOG = {torch.float32: -104.0, torch.float64: -746.0}


@dataclass(frozen=True)
class Block:
    """Some chunks of some rows; axes: r row, c chunk, t step, g group, h head of a group, p, n."""

    x: Tensor  # r c t g h p
    B: Tensor  # r c t g n
    C: Tensor
    sizes: Tensor  # of the steps, by which inputs are weighted: r c g h t
    logs: (
        Tensor  # of the decays from the chunk's start up to and with each step, float64: r c g h t
    )
    epochs: Tensor | None  # resets in the chunk up to and with each step: r c t
    causal: Tensor  # 0 for pairs of a step and one not after it, else minus infinity: t t

    @classmethod
    def whole(
        cls, x: Tensor, B: Tensor, C: Tensor, weights: Tensor, logs: Tensor, reset: Tensor | None
    ) -> "Block":
        """All steps, filled up to whole chunks with steps that neither decay nor add.

        Args:
            weights: Of the inputs, (batch, length, heads), in the dtype that is computed in.
            logs: Of the decay of each step, of the same shape, float64.
        """
        lacking, groups, dtype = -x.shape[1] % CHUNK, B.shape[2], weights.dtype

        def cut(steps: Tensor) -> Tensor:
            return F.pad(steps, (0, 0, 0, 0, 0, lacking)).unflatten(1, (-1, CHUNK))

        def by_head_of(numbers: Tensor) -> Tensor:
            filled = F.pad(numbers, (0, 0, 0, lacking)).unflatten(1, (-1, CHUNK))
            return filled.unflatten(3, (groups, -1)).movedim(2, 4)

        epochs = None
        if reset is not None:
            epochs = F.pad(reset, (0, lacking)).unflatten(1, (-1, CHUNK)).long().cumsum(2)
        causal = torch.full((CHUNK, CHUNK), -torch.inf, dtype=dtype, device=x.device).triu(1)
        return cls(
            cut(x).unflatten(3, (groups, -1)),
            cut(B),
            cut(C),
            by_head_of(weights).contiguous(),
            by_head_of(logs).clamp(min=_SMALLEST_LOG[dtype]).cumsum(-1),
            epochs,
            causal,
        )

    @classmethod
    def of(cls, whole: "Block", rows: slice, chunks: slice) -> "Block":
        """A part of a block."""
        part = (rows, chunks)
        return cls(
            whole.x[part],
            whole.B[part],
            whole.C[part],
            whole.sizes[part],
            whole.logs[part],
            None if whole.epochs is None else whole.epochs[part],
            whole.causal,
        )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that is computed in."""
        return self.sizes.dtype

    def _kept(self, decays: Tensor, present: Tensor) -> Tensor:
        """These decays, zero across a reset. (A product would make nan of those that overflow.)"""
        return decays.masked_fill_(~present[:, :, None, None], 0.0)

    def decays(self) -> Tensor:
        """From each step j to each i: r c g h i j."""
        found = (self.logs.unsqueeze(-1) - self.logs.unsqueeze(-2)).to(self.dtype)
        exp_(found.add_(self.causal))
        if self.epochs is None:
            return found
        return self._kept(found, self.epochs.unsqueeze(-1) == self.epochs.unsqueeze(-2))

    def entering(self) -> Tensor:
        """From the chunk's start to each step: r c g h t."""
        found = exp_(self.logs.to(self.dtype, copy=True))
        return found if self.epochs is None else self._kept(found, self.epochs == 0)

    def leaving(self) -> Tensor:
        """From each step to the chunk's end: r c g h t."""
        found = exp_((self.logs[..., -1:] - self.logs).to(self.dtype))
        if self.epochs is None:
            return found
        return self._kept(found, self.epochs == self.epochs[..., -1:])

    def scores(self) -> Tensor:
        """C_i . B_j: r c g i j."""
        return by_group(self.C) @ by_group(self.B).mT

    def driven(self) -> Tensor:
        """The inputs times their step sizes, r c g h t p."""
        return by_head(self.x) * self.sizes.unsqueeze(-1)

    def added_states(self) -> Tensor:
        """What the chunks add to the states after them: r c g (h p) n."""
        weights = by_time(self.sizes * self.leaving())
        return by_group((self.x * weights).flatten(-2)).mT @ by_group(self.B)


def by_head(x: Tensor) -> Tensor:
    """r c t g h p as r c g h t p."""
    return x.movedim(2, 4)


def by_group(x: Tensor) -> Tensor:
    """r c t g n as r c g t n."""
    return x.movedim(2, 3)


def by_time(weights: Tensor) -> Tensor:
    """r c g h t as r c t g h 1."""
    return weights.movedim(4, 2).unsqueeze(-1)


def whole_block(given: Operands[Tensor], step_sizes: Tensor) -> Block:
    """All of a scan by heads, whose step sizes are the weights and, times A, the log decays."""
    logs = step_sizes.double() * given.A.double()
    return Block.whole(given.x, given.B, given.C, step_sizes, logs, given.reset)


def parts_of(whole: Block) -> Iterator[tuple[slice, slice]]:
    """Rows and chunks to work on at a time, the chunks of some rows in their order."""
    rows, chunks, groups, heads, chunk = whole.sizes.shape
    numbers = groups * heads * chunk * chunk
    states = groups * heads * whole.x.shape[-1] * whole.B.shape[-1]
    device = whole.sizes.device
    for some, spans in parts(rows, chunks, numbers, NUMBERS_AT_A_TIME, device, states):
        for span in spans:
            yield some, span


def across(block: Block) -> Tensor:
    """The decays of whole chunks: r c g h."""
    return block.entering()[..., -1]


def grouped(states: Tensor | None, groups: int) -> Tensor | None:
    """(batch, heads, head_dim, state) as r g hp n."""
    return None if states is None else states.unflatten(1, (groups, -1)).flatten(2, 3)


def by_matrix(states: Tensor, head_dim: int) -> Tensor:
    """r g hp n as (batch, heads, head_dim, state)."""
    return states.unflatten(2, (-1, head_dim)).flatten(1, 2)

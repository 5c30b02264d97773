"""What the kernels of a gated norm are compiled with, and how threads share out a group."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch

from keelback.compiled.cuda_header import header_text
from keelback.compiled.cuda_operands import PIECE_BYTES
from keelback.norm._operands import NormOperands, NormOptions, output_dtype

_WARP = 32
#: Threads of a block whose teams are no more than a warp each.
THREADS = 256
#: Threads of a team, and the most where each would have more numbers than `_MANY`.
_TEAM, _LARGEST_TEAM = 512, 1024
_MANY = 16
#: Of a multiprocessor: its registers, and the threads that hide each other's waiting.
_REGISTERS, _RESIDENT = 65536, 1024
#: Registers of a thread for addresses and what is computed in between.
_AROUND = {"normalise": 24, "gradients": 36}
#: Registers for what is read of the next row while this one is computed.
_MOST_AHEAD = 32
_WORD = 4  # bytes of a register
#: Of the kernel that adds up parts.
TOTAL_THREADS = 1024


class Team(NamedTuple):
    """Threads that have a group together, and how many vectors each of them has."""

    threads: int
    packs: int


def team_of(count: int, vector: int) -> Team:
    """The team for a group of `count` numbers, of which a thread moves `vector` at once.

    Up to 32 vectors are a part of a warp's, or a warp's; more are those of a whole block.
    """
    pieces = count // vector
    if pieces <= _WARP:
        return Team(1 << (pieces - 1).bit_length(), 1)
    packs = -(-pieces // _TEAM)
    if packs * vector > _MANY:
        packs = -(-pieces // _LARGEST_TEAM)
    return Team(-(-pieces // packs // _WARP) * _WARP, packs)


@dataclass(frozen=True)
class NormConfiguration:
    """The constants that the kernels are compiled with."""

    sources: ClassVar[str] = "keelback.norm.cuda"

    name: str
    dtype: torch.dtype
    gate: torch.dtype | None
    weight: torch.dtype | None
    out: torch.dtype
    count: int
    vector: int
    one_axis: bool
    options: NormOptions

    @property
    def team(self) -> Team:
        """How threads share out a group."""
        return team_of(self.count, self.vector)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.team.threads * self.teams

    @property
    def teams(self) -> int:
        """Teams of a block."""
        return THREADS // self.team.threads if self.team.threads <= _WARP else 1

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor has at once, to which registers are limited.

        Besides what it reads, a thread has the weights, and of each number the product with its
        gate, or the gate's logistic function and the gradient of the weight.
        """
        numbers = self.team.packs * self.vector
        weights = numbers * self.weight.itemsize // _WORD if self.weight else 0
        reals = numbers * (2 if self.name == "gradients" else 1)
        read = self._read * (2 if self.ahead else 1)
        registers = _AROUND[self.name] + weights + reals + read
        return max(1, min(_RESIDENT, _REGISTERS // registers) // self.threads)

    @property
    def ahead(self) -> bool:
        """Whether a thread reads its part of the next row while it computes this one's."""
        return self._read <= _MOST_AHEAD

    @property
    def _read(self) -> int:
        """Registers for what a thread reads of a row."""
        read = [self.dtype, self.gate, self.out if self.name == "gradients" else None]
        sizes = sum(one.itemsize for one in read if one is not None)
        return -(-self.team.packs * self.vector * sizes // _WORD)

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        weight = self.weight or self.dtype
        types = {
            "Gate": self.gate or self.dtype,
            "Weight": weight,
            "Product": torch.promote_types(self.dtype, weight),
            "Out": self.out,
        }
        integers = {
            "kSize": self.count,
            "kVector": self.vector,
            "kTeam": self.team.threads,
            "kPacks": self.team.packs,
            "kThreads": self.threads,
            "kBlocks": self.blocks,
        }
        flags = {
            "kHasGate": self.gate is not None,
            "kHasWeight": self.weight is not None,
            "kNormFirst": self.options.norm_before_gate,
            "kSigmoid": self.options.sigmoid,
            "kRounded": self.options.rounded,
            "kOneAxis": self.one_axis,
            "kAhead": self.ahead,
        }
        return header_text(self.dtype, types, integers, flags)


@dataclass(frozen=True)
class TotalConfiguration:
    """For `total.cu`."""

    sources: ClassVar[str] = "keelback.norm.cuda"

    dtype: torch.dtype
    weight: torch.dtype

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        return header_text(self.dtype, {"Weight": self.weight}, {"kThreads": TOTAL_THREADS}, {})


def configuration_of(
    name: str,
    given: NormOperands[Any],
    options: NormOptions,
    steps: tuple[tuple[int, ...], ...],
    aligned: bool,
    one_axis: bool,
) -> NormConfiguration:
    """For a kernel over tensors with these strides, all of which begin at 16 bytes or not."""
    x, gate, weight = given
    dtypes = [one.dtype for one in given if one is not None]
    count = options.group_of(x.shape[-1])
    vector = PIECE_BYTES // min(dtype.itemsize for dtype in dtypes[: 1 if gate is None else 2])
    numbers = [count, *(step for of_one in steps for step in of_one)]
    while vector > 1 and not (aligned and all(number % vector == 0 for number in numbers)):
        vector //= 2
    return NormConfiguration(
        name=name,
        dtype=x.dtype,
        gate=None if gate is None else gate.dtype,
        weight=None if weight is None else weight.dtype,
        out=output_dtype(given, options),
        count=count,
        vector=vector,
        one_axis=one_axis,
        options=options._replace(epsilon=0.0, group_size=0, promoted=False),
    )

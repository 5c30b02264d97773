"""Where the kernels find their operands, and how the work is cut into blocks.

An operand of the kernels has the axes (replica, row, time, lane); `B` and `C` have groups and
states in place of the lanes. A stride of zero repeats the operand along that axis, so whatever is
shared between replicas, rows or channels is never expanded in memory.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from keelback.compiled import LANES
from keelback.scan._operands import ScanSizes

# Blocks that walk along the sequence together.
SIDE_BY_SIDE = 4

#: Attributes of `ScanSizes` that the kernels read.
OF_SIZES = (
    "replicas",
    "rows",
    "length",
    "channels",
    "states",
    "groups",
    "channels_per_group",
)
#: These, and those of `CpuPlan`.
NUMBERS = (
    *OF_SIZES,
    "chunk",
    "chunks",
    "blocks_per_group",
    "segments",
    "segments_per_block",
    "lanes_per_segment",
    "packed",
    "quads",
    "blocks_per_unit",
    "splits",
)
#: What else they are told.
FLAGS = ("softplus", "shared_delta")
_OPERANDS = {
    "u": "replica row time lane",
    "delta": "replica row time lane",
    "z": "replica row time lane",
    "y": "replica row time lane",
    "A": "replica lane state",
    "B": "replica row time group state",
    "C": "replica row time group state",
    "D": "replica lane",
    "bias": "replica lane",
    "reset": "replica row time",
    "initial": "replica row lane state",
    "last": "replica row lane state",
    "chunk_states": "replica row chunk state lane",
    "dy": "replica row time lane",
    "du": "replica row time lane",
    "ddelta": "partial replica row time lane",
    "dz": "replica row time lane",
    "dA": "replica row lane state",
    "dB": "partial replica row time group state",
    "dC": "partial replica row time group state",
    "dD": "replica row lane",
    "dbias": "replica row lane",
    "dlast": "replica row lane state",
    "dinitial": "replica row lane state",
}
OPERANDS = {name: tuple(axes.split()) for name, axes in _OPERANDS.items()}

#: One record of 64-bit integers: the byte address `x` of each operand `x` (zero if absent), then
#: sizes, flags, and the operands' byte strides `x_replica`, `x_row`, ...
PARAMETERS = np.dtype(
    [(name, np.int64) for name in (*OPERANDS, *NUMBERS, *FLAGS)]
    + [(f"{name}_{axis}", np.int64) for name, axes in OPERANDS.items() for axis in axes]
)


@dataclass(frozen=True)
class CpuPlan:
    """How a scan is cut into blocks of `LANES` lanes, and blocks into units of work.

    A segment is a run of at most `LANES` channels of one row and one group. A block is one
    segment or, where the groups are narrow, several groups side by side. A unit is a run of
    blocks that add to the same gradient of B and C; where rows and groups are too few to share
    the work, several units split the channels of one group, each with its own partial sum. The
    cut depends on the sizes alone, never on the number of threads, and so do the results, to the
    last bit.
    """

    sizes: ScanSizes

    @cached_property
    def numbers(self) -> list[int]:
        """What `NUMBERS` names."""
        return [getattr(self.sizes if name in OF_SIZES else self, name) for name in NUMBERS]

    @cached_property
    def cost(self) -> float:
        """Rough time of a forward scan on one thread, in microseconds."""
        return self.blocks * self.sizes.length * (self.sizes.states + 2) * 0.005

    @cached_property
    def chunk_states_axes(self) -> tuple[int, ...]:
        """Of the states at the starts of chunks: replicas, rows, chunks, states, channels."""
        sizes = self.sizes
        return (sizes.replicas, sizes.rows, self.chunks, sizes.states, sizes.channels)

    @cached_property
    def chunk_states_shape(self) -> tuple[int, ...]:
        """Their shape, with the last three axes as one.

        An axis of chunks alone would bind exported programs to lengths of one chunk, or of more.
        """
        replicas, rows, chunks, states, channels = self.chunk_states_axes
        return (replicas, rows, chunks * states * channels)

    @cached_property
    def chunk(self) -> int:
        """Time steps between two states that are kept."""
        return 64 if self.sizes.states <= 16 else 32

    @cached_property
    def chunks(self) -> int:
        """Chunks of the length."""
        return -(-self.sizes.length // self.chunk)

    @cached_property
    def blocks_per_group(self) -> int:
        """Blocks of one group."""
        return -(-self.sizes.channels_per_group // LANES)

    @cached_property
    def segments(self) -> int:
        """Segments of all rows and groups."""
        return self.sizes.replicas * self.sizes.rows * self.sizes.groups * self.blocks_per_group

    @cached_property
    def lanes_per_segment(self) -> int:
        """The width of a group, rounded up to a power of two, or all lanes."""
        return min(LANES, 1 << (self.sizes.channels_per_group - 1).bit_length())

    @cached_property
    def segments_per_block(self) -> int:
        """Segments side by side in a block."""
        return LANES // self.lanes_per_segment

    @cached_property
    def packed(self) -> bool:
        """Whether a block holds several segments."""
        return self.segments_per_block > 1

    @cached_property
    def quads(self) -> bool:
        """Whether the states come in fours, and segments fill four lanes or all."""
        return self.lanes_per_segment in (4, LANES) and self.sizes.states % 4 == 0

    @cached_property
    def blocks(self) -> int:
        """Blocks of the whole scan."""
        return -(-self.segments // self.segments_per_block)

    @cached_property
    def blocks_per_unit(self) -> int:
        """Blocks of one group that share a partial sum of the gradients of B and C.

        As many as leave sixteen units, and partial sums no larger than u.
        """
        wanted = -(-16 // max(1, self.sizes.replicas * self.sizes.rows * self.sizes.groups))
        affordable = max(
            2, self.sizes.channels // max(1, 2 * self.sizes.groups * self.sizes.states)
        )
        return -(-self.blocks_per_group // max(1, min(wanted, affordable)))

    @cached_property
    def splits(self) -> int:
        """Partial sums for each group."""
        return -(-self.blocks_per_group // max(1, self.blocks_per_unit))

    @cached_property
    def units(self) -> int:
        """Units of work of the backward pass."""
        if self.packed:
            return self.blocks
        return self.sizes.replicas * self.sizes.rows * self.sizes.groups * self.splits

"""What the kernels of the scan by heads are specialised for, and their shared memory."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from keelback.compiled.cuda_tiles import BARRIER, BLOCK_OF_TILE, FLOAT, PANEL, InPlanes, aligned


@dataclass(frozen=True)
class Tiles(InPlanes):
    """How a chunk of one head is cut into tiles: chunk x head_tile of x, head_tile x states of h.

    With `wide`, warps multiply by four.
    """

    dtype: torch.dtype
    chunk: int
    head_tile: int
    head_tiles: int
    padded_states: int
    planes: int
    wide: bool = False

    @property
    def step_fields(self) -> int:
        """Numbers that are kept of each step of each head."""
        return 6

    @property
    def step_bytes(self) -> int:
        """Shared memory of `ChunkSteps`."""
        return FLOAT * 6 * self.chunk

    @property
    def state_numbers(self) -> int:
        """Numbers of a head's state as the kernels store it."""
        return self.head_tiles * self.head_tile * self.padded_states

    @property
    def integers(self) -> dict[str, int]:
        """Constants for `configuration.h`."""
        return {
            "kChunk": self.chunk,
            "kHeadTile": self.head_tile,
            "kHeadTiles": self.head_tiles,
            "kPaddedStates": self.padded_states,
            "kPlanes": self.planes,
        }


@dataclass(frozen=True)
class StepsConfiguration:
    """For `steps.cu`."""

    sources: ClassVar[str] = "keelback.ssd.cuda"
    threads: ClassVar[int] = 256

    tiles: Tiles
    step_dtype: torch.dtype
    softplus: bool
    has_reset: bool

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        flags = {"kSoftplus": self.softplus, "kHasReset": self.has_reset}
        return self.tiles.header({"StoredStep": self.step_dtype}, {}, flags)


@dataclass(frozen=True)
class StatesConfiguration:
    """For `states.cu`: a block has `heads` heads, and `rows` steps at a time."""

    sources: ClassVar[str] = "keelback.ssd.cuda"

    tiles: Tiles
    rows: int
    heads: int
    state_tile: int
    warps: int
    warps_of_rows: int
    stages: int
    blocks_per_processor: int = 1
    overlaps: bool = False

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return "states_wide" if self.tiles.wide else "states"

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, rows = self.tiles, self.rows
        x, b = tiles.bytes_of(rows, tiles.head_tile), tiles.bytes_of(rows, self.state_tile)
        scalars = FLOAT * self.heads * (rows + 4)
        if tiles.wide:
            stage = aligned(self.heads * x + b + scalars, PANEL)
            return aligned(self.stages * (stage + BARRIER + 4 * FLOAT), PANEL)
        return self.stages * aligned(self.heads * x + b + scalars)

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        integers = {
            "kRows": self.rows,
            "kHeads": self.heads,
            "kStateTile": self.state_tile,
            "kWarps": self.warps,
            "kWarpsOfRows": self.warps_of_rows,
            "kStages": self.stages,
            "kBlocksPerProcessor": self.blocks_per_processor,
        }
        return self.tiles.header({}, integers, {})


@dataclass(frozen=True)
class OutputsConfiguration:
    """For `outputs.cu`: a block has a chunk of a subset of heads.

    With tiles for warpgroups two of these have `stages` heads each on the way; `own_b` is whether B
    has memory of its own, so that the first heads need not wait, and `straight` whether warps find
    weights that are zero rather than branch.
    """

    sources: ClassVar[str] = "keelback.ssd.cuda"

    tiles: Tiles
    stages: int
    has_z: bool
    gate_gradient: bool
    has_reset: bool
    skip_per_number: bool
    signed: bool
    blocks_per_processor: int = 1
    own_b: bool = False
    straight: bool = True

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return "outputs_wide" if self.tiles.wide else "outputs"

    @property
    def threads(self) -> int:
        """Threads of a block: two warpgroups, or a warp for 16 steps."""
        return 256 if self.tiles.wide else 2 * self.tiles.chunk

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, chunk = self.tiles, self.tiles.chunk
        matrix = tiles.bytes_of(chunk, tiles.padded_states)
        x = tiles.bytes_of(chunk, tiles.head_tile)
        h = tiles.bytes_of(tiles.head_tile, tiles.padded_states)
        if tiles.wide:
            stages = 2 * self.stages * aligned(x + h + tiles.step_bytes, PANEL)
            matrices = matrix + (matrix if self.own_b else PANEL) + max(stages, matrix)
            return aligned(matrices + FLOAT * chunk + BARRIER * (2 * self.stages + 1), PANEL)
        stage = aligned(x + h + tiles.step_bytes)
        before = aligned(matrix + FLOAT * chunk)
        return before + (self.stages - 1) * stage + max(stage, matrix)

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        integers = {"kStages": self.stages, "kBlocksPerProcessor": self.blocks_per_processor}
        flags = {
            "kHasZ": self.has_z,
            "kGateGradient": self.gate_gradient,
            "kHasReset": self.has_reset,
            "kSkipPerNumber": self.skip_per_number,
            "kSigned": self.signed,
        }
        if self.tiles.wide:
            flags |= {"kOwnB": self.own_b, "kStraight": self.straight}
        return self.tiles.header({}, integers, flags)


@dataclass(frozen=True)
class WalkConfiguration:
    """For `walk_wide.cu`: a block has `heads` heads, each a warpgroup, and one that fetches."""

    sources: ClassVar[str] = "keelback.ssd.cuda"
    kernel: ClassVar[str] = "walk_wide"

    tiles: Tiles
    heads: int
    stages: int
    has_z: bool
    has_reset: bool
    skip_per_number: bool
    signed: bool
    from_memory: bool = True
    one_fence: bool = True
    overlaps: bool = True

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 128 * (self.heads + 1)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, chunk = self.tiles, self.tiles.chunk
        matrix = tiles.bytes_of(chunk, tiles.padded_states)
        x = tiles.bytes_of(chunk, tiles.head_tile)
        h = tiles.bytes_of(tiles.head_tile, tiles.padded_states)
        of_heads = self.heads * (x + tiles.step_bytes)
        stage = aligned(2 * matrix + of_heads + FLOAT * chunk, PANEL)
        return aligned(self.stages * (stage + BARRIER) + self.heads * (x + h), PANEL)

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        integers = {
            "kRows": self.tiles.chunk,
            "kHeads": self.heads,
            "kStateTile": self.tiles.padded_states,
            "kWarps": 4 * self.heads,
            "kWarpsOfRows": 4,
            "kStages": self.stages,
        }
        flags = {
            "kHasZ": self.has_z,
            "kGateGradient": False,
            "kHasReset": self.has_reset,
            "kSkipPerNumber": self.skip_per_number,
            "kSigned": self.signed,
            "kFromMemory": self.from_memory,
            "kOneFence": self.one_fence,
        }
        return self.tiles.header({}, integers, flags)


@dataclass(frozen=True)
class GradientsConfiguration:
    """For `gradients.cu`: a block has a chunk of a subset of heads, `split` warps per 16 steps."""

    sources: ClassVar[str] = "keelback.ssd.cuda"

    tiles: Tiles
    step_dtype: torch.dtype
    split: int
    stages: int
    softplus: bool
    has_reset: bool
    skip_per_number: bool
    blocks_per_processor: int = 1

    @property
    def threads(self) -> int:
        """Threads of a block: of two warpgroups with `wide`."""
        return 2 * self.tiles.chunk * (2 if self.tiles.wide else self.split)

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return "gradients_wide" if self.tiles.wide else "gradients"

    @property
    def skip_sums(self) -> int:
        """Numbers per head that a chunk adds to the gradient of D."""
        return self.tiles.head_tiles * self.tiles.head_tile if self.skip_per_number else 1

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, chunk = self.tiles, self.tiles.chunk
        matrices = 2 * tiles.bytes_of(chunk, tiles.padded_states)
        row_warps = chunk // BLOCK_OF_TILE
        skips = self.skip_sums // self.split if self.skip_per_number else 1
        numbers = chunk * (2 + row_warps + 2 * self.split) + row_warps * (1 + self.split * skips)
        x = tiles.bytes_of(chunk, tiles.head_tile)
        h = tiles.bytes_of(tiles.head_tile, tiles.padded_states)
        pairs = tiles.bytes_of(chunk, chunk)
        scalars = FLOAT * (2 * numbers + chunk)
        if tiles.wide:
            stages = self.stages * aligned(2 * x + 2 * h + tiles.step_bytes, PANEL)
            barriers = BARRIER * (self.stages + 1)
            return aligned(matrices + max(stages, pairs) + scalars + barriers, PANEL)
        stage = aligned(2 * x + 2 * h + tiles.step_bytes)
        before = aligned(matrices + FLOAT * chunk * chunk + scalars)
        return before + max(self.stages * stage, pairs)

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        integers = {
            "kSplit": self.split,
            "kStages": self.stages,
            "kBlocksPerProcessor": self.blocks_per_processor,
        }
        flags = {
            "kSoftplus": self.softplus,
            "kHasReset": self.has_reset,
            "kSkipPerNumber": self.skip_per_number,
        }
        return self.tiles.header({"StoredStep": self.step_dtype}, integers, flags)

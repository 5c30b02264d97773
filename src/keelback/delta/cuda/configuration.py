"""What the kernels of the delta rule are specialised for, and their shared memory."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from keelback.compiled.cuda_tiles import (
    BARRIER,
    BLOCK_OF_TILE,
    FLOAT,
    PANEL,
    TILE,
    InPlanes,
    aligned,
)

WARPS = 8  # of a block that finds gradients
SUMS, SUMS_OF_CHANNELS = 6, 4  # of gradients.cu and gradients_channels.cu


@dataclass(frozen=True)
class Tiles(InPlanes):
    """How a head is cut: chunks of steps, and tiles of its values.

    With `wide`, warps multiply by four; with `by_channel`, each key channel has its own decay.
    """

    dtype: torch.dtype
    chunk: int
    key: int
    value_tile: int
    value_tiles: int
    planes: int
    wide: bool = False
    by_channel: bool = False

    @property
    def values(self) -> int:
        """Those of a head, filled up to whole tiles."""
        return self.value_tile * self.value_tiles

    @property
    def unit(self) -> int:
        """Bytes to which operands are aligned in shared memory."""
        return PANEL if self.wide else TILE

    @property
    def step_bytes(self) -> int:
        """`ChunkSteps`, or `ChannelSteps`."""
        return (16 if self.by_channel else 44) * self.chunk

    @property
    def number_bytes(self) -> int:
        """`Numbers` of walks.cuh."""
        return FLOAT * (self.key + self.chunk if self.by_channel else 5 * self.chunk)

    @property
    def log_bytes(self) -> int:
        """`Logs` of channels.cuh."""
        return FLOAT * self.chunk * (self.key + 8)

    @property
    def block_bytes(self) -> int:
        """`BlockDecays` of channels.cuh."""
        blocks = self.chunk // BLOCK_OF_TILE
        return FLOAT * blocks * (2 * self.key + self.key // BLOCK_OF_TILE)

    @property
    def integers(self) -> dict[str, int]:
        """Constants for `configuration.h`."""
        return {
            "kChunk": self.chunk,
            "kKey": self.key,
            "kValueTile": self.value_tile,
            "kValueTiles": self.value_tiles,
            "kPlanes": self.planes,
        }

    @property
    def flags(self) -> dict[str, bool]:
        """And choices."""
        return {"kWide": self.wide, "kByChannel": self.by_channel}

    def header(
        self,
        types: dict[str, torch.dtype],
        integers: dict[str, int],
        flags: dict[str, bool],
    ) -> str:
        """The text of `configuration.h`."""
        return super().header(types, integers, {**self.flags, **flags})


@dataclass(frozen=True)
class InsideConfiguration:
    """For `inside.cu`: a block has a chunk of a head; `gradients` says whether they need it."""

    sources: ClassVar[str] = "keelback.delta.cuda"
    kernel: ClassVar[str] = "inside"
    most_blocks: ClassVar[int] = 4  # of a processor, for which registers suffice

    tiles: Tiles
    decay_dtype: torch.dtype
    beta_dtype: torch.dtype
    normalise: bool
    has_reset: bool
    gradients: bool = False
    blocks_per_processor: int = 1

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 128

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, chunk = self.tiles, self.tiles.chunk
        rows = FLOAT * chunk * (chunk + 4)
        matrices = aligned(2 * max(tiles.bytes_of(chunk, tiles.key), rows), tiles.unit)
        return aligned(matrices + tiles.step_bytes + BARRIER, tiles.unit)

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        types = {"StoredDecay": self.decay_dtype, "StoredBeta": self.beta_dtype}
        flags = {"kNormalise": self.normalise, "kHasReset": self.has_reset}
        flags["kForGradients"] = self.gradients
        integers = {"kBlocksPerProcessor": self.blocks_per_processor}
        return self.tiles.header(types, integers, flags)


@dataclass(frozen=True)
class InsideChannelsConfiguration(InsideConfiguration):
    """For `inside_channels.cu`, the same with a decay per key channel."""

    kernel: ClassVar[str] = "inside_channels"
    most_blocks: ClassVar[int] = 3

    @property
    def threads(self) -> int:
        """Threads of a block: a warp has 16 steps of q or of k."""
        return 2 * self.tiles.chunk // BLOCK_OF_TILE * 32

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, chunk = self.tiles, self.tiles.chunk
        rows = max(tiles.log_bytes, 2 * FLOAT * chunk * (chunk + 4))
        after = rows + tiles.block_bytes + tiles.step_bytes + BARRIER
        return aligned(2 * tiles.bytes_of(chunk, tiles.key) + after, tiles.unit)


@dataclass(frozen=True)
class WalkConfiguration:
    """For `ahead.cu` and `back.cu`: a block has a tile of a head's values, a warp 16 of them.

    With `outputs` the way ahead is for them; without, for the gradients.
    """

    sources: ClassVar[str] = "keelback.delta.cuda"

    tiles: Tiles
    back: bool
    outputs: bool
    stages: int

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return "back" if self.back else "ahead"

    @property
    def threads(self) -> int:
        """Threads of a block: with `wide` a warp more starts the copies."""
        return 32 * (self.tiles.value_tile // BLOCK_OF_TILE + self.tiles.wide)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, chunk, unit = self.tiles, self.tiles.chunk, self.tiles.unit
        keys, square = tiles.bytes_of(chunk, tiles.key), tiles.bytes_of(chunk, chunk)
        values = tiles.bytes_of(chunk, tiles.value_tile)
        stage = (2 if tiles.by_channel else 1) * keys + values + square + tiles.number_bytes
        stage += keys + square if self.back or self.outputs else 0
        stages = aligned(self.stages * (aligned(stage, unit) + BARRIER), unit)
        outputs = values * (2 if tiles.wide else 1) if self.outputs else 0
        return stages + outputs

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        return self.tiles.header(
            {}, {"kStages": self.stages}, {"kOutputs": self.outputs, "kHasReset": False}
        )


@dataclass(frozen=True)
class GradientsConfiguration:
    """For `gradients.cu`: a block has a chunk, and `stages` times `width` values of it."""

    sources: ClassVar[str] = "keelback.delta.cuda"
    kernel: ClassVar[str] = "gradients"

    tiles: Tiles
    decay_dtype: torch.dtype
    beta_dtype: torch.dtype
    dtype_of_groups: torch.dtype
    normalise: bool
    has_reset: bool
    width: int
    warps: int
    stages: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, chunk = self.tiles, self.tiles.chunk
        square, values = tiles.bytes_of(chunk, chunk), tiles.bytes_of(chunk, self.width)
        stage = aligned(2 * tiles.bytes_of(self.width, tiles.key) + 4 * values, tiles.unit)
        shared = aligned(max(self.stages * stage, 2 * square), tiles.unit)
        sums = FLOAT * self.warps * (SUMS * BLOCK_OF_TILE + 1)
        after = tiles.step_bytes + sums + BARRIER * (1 + self.stages)
        return aligned(2 * tiles.bytes_of(chunk, tiles.key) + shared + after, tiles.unit)

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        types = {
            "StoredDecay": self.decay_dtype,
            "StoredBeta": self.beta_dtype,
            "StoredOfGroups": self.dtype_of_groups,
        }
        flags = {"kNormalise": self.normalise, "kHasReset": self.has_reset}
        integers = {"kWidth": self.width, "kWarps": self.warps, "kStages": self.stages}
        return self.tiles.header(types, integers, flags)


@dataclass(frozen=True)
class GradientsChannelsConfiguration(GradientsConfiguration):
    """For `gradients_channels.cu`, the same with a decay per key channel."""

    kernel: ClassVar[str] = "gradients_channels"

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, chunk = self.tiles, self.tiles.chunk
        keys, square = tiles.bytes_of(chunk, tiles.key), tiles.bytes_of(chunk, chunk)
        values = tiles.bytes_of(chunk, self.width)
        stage = aligned(2 * tiles.bytes_of(self.width, tiles.key) + 4 * values, tiles.unit)
        matrices = aligned(max(self.stages * stage, 2 * square + 3 * keys), tiles.unit)
        decays = tiles.log_bytes + tiles.block_bytes + tiles.step_bytes
        of_channels = FLOAT * tiles.key * (2 * chunk // BLOCK_OF_TILE + 1)
        sums = FLOAT * SUMS_OF_CHANNELS * self.warps * BLOCK_OF_TILE
        after = decays + of_channels + sums + BARRIER * (1 + self.stages)
        return aligned(2 * keys + matrices + after, tiles.unit)

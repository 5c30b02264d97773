"""What the kernels of the delta rule are specialised for, and their shared memory."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from keelback.compiled.cuda_header import header_text

FLOAT = 4  # bytes
BLOCK_OF_TILE = 16  # the matrix unit multiplies 16 x 16
WARPS = 8  # of the kernels whose blocks have a chunk
SUMS = 6  # of gradients.cuh


@dataclass(frozen=True)
class Tiles:
    """How a head is cut: chunks of steps, and tiles of its values.

    `planes` numbers of sixteen bits stand for each number: 1 in half precision; for float32, 2 with
    the leading 16 bits of its products or 3 with all.
    """

    dtype: torch.dtype
    chunk: int
    key: int
    value_tile: int
    value_tiles: int
    planes: int

    @property
    def values(self) -> int:
        """Those of a head, filled up to whole tiles."""
        return self.value_tile * self.value_tiles

    @property
    def step_bytes(self) -> int:
        """`ChunkSteps`."""
        return 40 * self.chunk

    @property
    def parts(self) -> int:
        """Into which warps with the same 16 steps cut keys and values."""
        return WARPS * BLOCK_OF_TILE // self.chunk

    def bytes_of(self, rows: int, columns: int) -> int:
        """Shared memory of a tile."""
        return 2 * self.planes * rows * columns

    def header(
        self,
        types: dict[str, torch.dtype],
        integers: dict[str, int],
        flags: dict[str, bool],
    ) -> str:
        """The text of `configuration.h`."""
        element = torch.float16 if self.dtype == torch.float16 else torch.bfloat16
        every = {
            "kChunk": self.chunk,
            "kKey": self.key,
            "kValueTile": self.value_tile,
            "kValueTiles": self.value_tiles,
            "kPlanes": self.planes,
            **integers,
        }
        return header_text(self.dtype, {"Element": element, **types}, every, flags)


def _aligned(size: int) -> int:
    return -(-size // 128) * 128


@dataclass(frozen=True)
class InsideConfiguration:
    """For `inside.cu`: a block has a chunk of a head."""

    sources: ClassVar[str] = "keelback.delta.cuda"
    kernel: ClassVar[str] = "inside"
    threads: ClassVar[int] = 32 * WARPS

    tiles: Tiles
    decay_dtype: torch.dtype
    beta_dtype: torch.dtype
    normalise: bool
    has_reset: bool
    blocks_per_processor: int = 1

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, chunk = self.tiles, self.tiles.chunk
        operands = 2 * tiles.bytes_of(chunk, tiles.key) + tiles.bytes_of(chunk, tiles.values)
        squares = 2 * tiles.bytes_of(chunk, chunk) + FLOAT * chunk * chunk
        return _aligned(operands + squares + tiles.step_bytes)

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        types = {"StoredDecay": self.decay_dtype, "StoredBeta": self.beta_dtype}
        flags = {"kNormalise": self.normalise, "kHasReset": self.has_reset}
        integers = {"kBlocksPerProcessor": self.blocks_per_processor}
        return self.tiles.header(types, integers, flags)


@dataclass(frozen=True)
class WalkConfiguration:
    """For `ahead.cu` and `back.cu`: a block has a tile of a head's values, a warp 16 of them."""

    sources: ClassVar[str] = "keelback.delta.cuda"

    tiles: Tiles
    back: bool
    stages: int

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return "back" if self.back else "ahead"

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.tiles.value_tile // BLOCK_OF_TILE

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, chunk = self.tiles, self.tiles.chunk
        matrices = 3 * tiles.bytes_of(chunk, tiles.key) + tiles.bytes_of(chunk, chunk)
        stage = _aligned(matrices + 3 * FLOAT * chunk) + tiles.bytes_of(chunk, tiles.value_tile)
        turning = 0 if self.back else tiles.bytes_of(tiles.value_tile, chunk)
        return self.stages * stage + turning

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        return self.tiles.header({}, {"kStages": self.stages}, {})


@dataclass(frozen=True)
class GradientsConfiguration:
    """For `gradients.cu`: a block has a chunk of a head, and `stages` tiles of its values."""

    sources: ClassVar[str] = "keelback.delta.cuda"
    kernel: ClassVar[str] = "gradients"
    threads: ClassVar[int] = 32 * WARPS

    tiles: Tiles
    decay_dtype: torch.dtype
    beta_dtype: torch.dtype
    dtype_of_groups: torch.dtype
    normalise: bool
    has_reset: bool
    stages: int

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        tiles, chunk = self.tiles, self.tiles.chunk
        square, values = tiles.bytes_of(chunk, chunk), tiles.bytes_of(chunk, tiles.value_tile)
        stage = 2 * tiles.bytes_of(tiles.value_tile, tiles.key) + 3 * values
        shared = max(self.stages * stage + values, 2 * square)
        sums = FLOAT * (SUMS * tiles.parts * chunk + WARPS)
        before = 2 * tiles.bytes_of(chunk, tiles.key) + square
        return _aligned(before + shared + tiles.step_bytes + sums)

    @cached_property
    def header(self) -> str:
        """The text of `configuration.h`."""
        types = {
            "StoredDecay": self.decay_dtype,
            "StoredBeta": self.beta_dtype,
            "StoredOfGroups": self.dtype_of_groups,
        }
        flags = {"kNormalise": self.normalise, "kHasReset": self.has_reset}
        return self.tiles.header(types, {"kStages": self.stages}, flags)

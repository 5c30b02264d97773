"""What kernels by the matrix unit share on the host: their tiles in shared memory, in bytes."""

import torch

from keelback.compiled.cuda_header import header_text

FLOAT = 4  # bytes
BLOCK_OF_TILE = 16  # the matrix unit multiplies 16 x 16
TILE, PANEL = 128, 1024  # bytes to which tiles and panels are aligned
BARRIER = 8  # bytes


def aligned(size: int, to: int = TILE) -> int:
    """The next multiple."""
    return -(-size // to) * to


def element_of(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the planes that stand for numbers of this one."""
    return torch.float16 if dtype == torch.float16 else torch.bfloat16


class InPlanes:
    """What records of tiles share.

    `planes` numbers of sixteen bits stand for each number: 1 in half precision; for float32, 2 with
    the leading 16 bits of its products or 3 with all.
    """

    dtype: torch.dtype
    planes: int

    @property
    def integers(self) -> dict[str, int]:
        """Constants for `configuration.h`."""
        raise NotImplementedError

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
        element = element_of(self.dtype)
        every = {**self.integers, **integers}
        return header_text(self.dtype, {"Element": element, **types}, every, flags)

"""The operands of a scan by heads as the kernels take them, before their numbers are known."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.compiled.cuda_operands import PIECE_BYTES, at_pieces, in_pieces
from keelback.compiled.layouts import Blank, Layout, row_major
from keelback.ssd._operands import Operands, Options, SsdSizes

PIECE = 8
"""Numbers that move together: heads and states come in whole pieces, which start at 16 bytes."""

_IN_PIECES = ("x", "B", "C", "z")
_CONTIGUOUS = ("A", "D", "dt_bias", "initial_states")


class CudaSignature:
    """What the scans of one signature share: operands as the kernels take them, and sizes.

    Attributes:
        given: The operands as the kernels take them.
        sizes: Theirs: heads and states are filled up to whole pieces.
        asked: The sizes of the operands as they come.
    """

    def __init__(self, given: Operands[Layout], options: Options) -> None:
        self.softplus, *limits = options
        self.limits: tuple[float, float] = (limits[0], limits[1])
        self.device, self.asked = given.x.device, SsdSizes.of(given)
        self._fixes: list[tuple[int, Callable[[Tensor], Tensor]]] = []
        taken = [
            None if layout is None else self._fixed(place, name, layout)
            for place, (name, layout) in enumerate(given._asdict().items())
        ]
        self.given: Operands[Layout] = Operands(*taken)  # type: ignore[arg-type]
        self.sizes = SsdSizes.of(self.given)
        self.like_x = Blank(self.given.x.shape, given.x.dtype, self.device)
        self.like_states = Blank(self.states_shape, torch.float32, self.device)

    @property
    def states_shape(self) -> tuple[int, ...]:
        """Of the states that the kernels take and give."""
        sizes = self.sizes
        return (sizes.batch, sizes.heads, sizes.head_dim, sizes.states)

    @property
    def padded(self) -> bool:
        """Whether heads or states lack numbers to whole pieces."""
        return bool(self.asked.head_dim % PIECE or self.asked.states % PIECE)

    @property
    def skip_per_number(self) -> bool:
        """Whether D is one for each number of a head."""
        return self.given.D is not None and len(self.given.D.shape) == 2

    def lacking(self, name: str, axes: int) -> tuple[int, ...]:
        """What `F.pad` is to add to an operand of so many axes."""
        numbers, states = -self.asked.head_dim % PIECE, -self.asked.states % PIECE
        if name == "initial_states":
            return (0, states, 0, numbers)
        if name in ("x", "z") or (name == "D" and axes == 2):
            return (0, numbers)
        return (0, states) if name in ("B", "C") else ()

    def _fixed(self, place: int, name: str, layout: Layout) -> Layout:
        """How the kernels take an operand; remembers what makes it so."""
        padding = self.lacking(name, len(layout.shape))
        if any(padding):
            self._fixes.append((place, partial(F.pad, pad=padding)))
            shape = list(layout.shape)
            for axis, added in enumerate(padding[1::2]):
                shape[-1 - axis] += added
            return layout._replace(shape=torch.Size(shape), stride=row_major(shape))
        fits = True
        if name in _IN_PIECES:
            fits = in_pieces(layout)
        elif name in _CONTIGUOUS:
            fits = layout.contiguous
        if fits:
            return layout
        self._fixes.append((place, partial(torch.clone, memory_format=torch.contiguous_format)))
        return layout.in_row_major_order()

    def taken(self, operands: Sequence[Tensor | None]) -> Operands[Tensor]:
        """The operands as the kernels take them, copied where their layout does not allow it."""
        given = list(operands)
        for place, fix in self._fixes:
            given[place] = fix(given[place])  # type: ignore[arg-type]
        found: Operands[Tensor] = Operands(*given)  # type: ignore[arg-type]
        starts = (found.x, found.B, found.C, found.z)
        if any(x is not None and x.data_ptr() % PIECE_BYTES for x in starts):
            x, B, C, z = [None if x is None else at_pieces(x) for x in starts]
            found = found._replace(x=x, B=B, C=C, z=z)  # type: ignore[arg-type]
        return found

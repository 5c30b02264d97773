"""The operands of a scan, as far as they are known before their numbers: layouts, sizes, traits."""

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from keelback.compiled.cuda_operands import PACK, in_packs
from keelback.compiled.layouts import Blank, Layout
from keelback.scan._operands import Operands, ScanSizes
from keelback.scan.cuda.plan import Traits

Addresses: TypeAlias = Sequence[int]
"""Where the operands' data lie, in their order; 0 for absent ones."""

#: Operands whose entries along the last axis must be neighbours; parameters may have no gaps.
_SEQUENCES = ("u", "delta", "B", "C", "z")


class CudaSignature:
    """What the scans of one signature share: operands as the kernels take them, and sizes."""

    def __init__(self, given: Operands[Layout], softplus: bool) -> None:
        self.softplus, self.device, self.sizes = softplus, given.u.device, ScanSizes.of(given)
        self._copied = [place for place, fits in enumerate(_fit(given)) if not fits]
        self.given: Operands[Layout] = Operands(
            *(
                x.in_row_major_order() if x is not None and place in self._copied else x
                for place, x in enumerate(given)  # type: ignore[arg-type]
            )
        )
        u, A = self.given.u, self.given.A
        self._pack_bytes = PACK * u.dtype.itemsize
        self.like_u = Blank(u.shape, u.dtype, u.device)
        self.like_state = Blank((*u.shape[:-2], *A.shape[-2:]), A.dtype, u.device)

    def taken(self, operands: Sequence[Tensor | None]) -> Operands[Tensor]:
        """The operands as the kernels take them: with adjacent channels, states and entries."""
        given = list(operands)
        for place in self._copied:
            given[place] = given[place].contiguous()  # type: ignore[union-attr]
        return Operands._make(given)

    def traits(self, aligned: bool, states_aligned: bool, *others: Layout) -> Traits:
        """What kernels specialise for; `others` are further tensors with the axes of u."""
        given, sizes = self.given, self.sizes
        sequences = [given.u, *others] if given.shares_delta else [given.u, given.delta, *others]
        if given.z is not None:
            sequences.append(given.z)
        packed = aligned and sizes.channels_per_group % PACK == 0 and all(map(in_packs, sequences))
        state_packed = states_aligned and sizes.states % PACK == 0
        state_packed = state_packed and in_packs(given.B) and in_packs(given.C)
        return Traits(
            sizes=sizes,
            dtype=given.u.dtype,
            vector=PACK if packed else 1,
            state_vector=PACK if state_packed else 1,
            softplus=self.softplus,
            has_d=given.D is not None,
            has_z=given.z is not None,
            has_reset=given.reset is not None,
            shared_delta=given.shares_delta,
            dense=all(x.contiguous for x in sequences),
        )

    def alignment(self, at: Addresses, dy: int = 0) -> tuple[bool, bool]:
        """Whether sequences, and whether B and C, begin where packs may."""
        u, delta, _, B, C, _, z, *_ = at
        sequences = u | z | dy if self.given.shares_delta else u | delta | z | dy
        return not sequences % self._pack_bytes, not (B | C) % self._pack_bytes


def _fit(given: Operands[Layout]) -> list[bool]:
    """Of each operand whether the kernels take it as it lies."""
    return [
        x is None
        or (x.adjacent if name in _SEQUENCES else True if name == "reset" else x.contiguous)
        for name, x in given._asdict().items()
    ]

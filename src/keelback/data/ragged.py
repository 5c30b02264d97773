"""Sequences of different lengths in two flat arrays, and how they are padded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import numpy.typing as npt

from keelback.errors import InputError

PaddingSide = Literal["right", "left"]


@dataclass(frozen=True)
class Ragged:
    """Sequence i is `values[offsets[i]:offsets[i + 1]]`; both arrays may be memory-mapped."""

    values: npt.NDArray[np.integer]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def from_sequences(cls, sequences: Iterable[Sequence[int]]) -> "Ragged":
        """Lay sequences of token ids one after another."""
        rows = [np.asarray(row, dtype=np.int32) for row in sequences]
        values = np.concatenate(rows) if rows else np.empty(0, np.int32)
        return cls(values, np.cumsum([0, *map(len, rows)], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.integer]:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """How many tokens each sequence has."""
        return np.diff(self.offsets)

    def first(self, count: int) -> "Ragged":
        """The first `count` sequences, as views."""
        return Ragged(self.values, self.offsets[: count + 1])

    def padded(
        self, pad_id: int, length: int | None = None, side: PaddingSide = "right"
    ) -> npt.NDArray[np.int32]:
        """All sequences in one (m, length) array; `length` is that of the longest by default.

        Raises:
            InputError: a sequence is longer than `length`.
        """
        longest = int(self.lengths.max(initial=0))
        length = longest if length is None else length
        if longest > length:
            row = int(self.lengths.argmax())
            raise InputError(
                f"sequence {row + 1} has {longest} tokens, more than the length asked for, {length}"
            )
        table = np.full((len(self), length), pad_id, dtype=np.int32)
        _copy_rows(self.values, self.offsets, table, side == "left")
        return table


@numba.njit(cache=True, nogil=True)
def _copy_rows(
    values: npt.NDArray[np.integer],
    offsets: npt.NDArray[np.int64],
    table: npt.NDArray[np.int32],
    flush_right: bool,
) -> None:
    for row in range(len(offsets) - 1):
        count = offsets[row + 1] - offsets[row]
        shift = table.shape[1] - count if flush_right else 0
        for column in range(count):
            table[row, shift + column] = values[offsets[row] + column]

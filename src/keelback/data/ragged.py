"""Sequences of different lengths in two flat arrays, and how they are padded."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from keelback.errors import InputError

PaddingSide = Literal["right", "left"]


@dataclass(frozen=True)
class Ragged:
    """Sequence i is `values[offsets[i]:offsets[i + 1]]`; both arrays may be memory-mapped.

    Examples:
        >>> two = Ragged(np.array([7, 8, 9]), offsets=np.array([0, 2, 3]))
        >>> len(two)
        2
    """

    values: npt.NDArray[np.integer]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def from_sequences(
        cls, sequences: Iterable[Sequence[int] | npt.NDArray[np.integer]]
    ) -> "Ragged":
        """Lay sequences of token ids one after another."""
        rows = [np.asarray(row, dtype=np.int32) for row in sequences]
        return cls(
            np.concatenate([np.empty(0, np.int32), *rows]), _ends([len(row) for row in rows])
        )

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

    def take(self, rows: npt.NDArray[np.integer]) -> "Ragged":
        """The sequences with these numbers, copied."""
        return self._head(rows, self.lengths[rows])

    def truncated(self, length: int) -> "Ragged":
        """Every sequence cut to `length` tokens, of which the last is the sequence's own last.

        This is how BERT truncates: the closing [SEP] stays.
        """
        kept = self._head(np.arange(len(self)), np.minimum(self.lengths, length))
        whole = np.flatnonzero(kept.lengths)
        kept.values[kept.offsets[whole + 1] - 1] = self.values[self.offsets[whole + 1] - 1]
        return kept

    def _head(self, rows: npt.NDArray[np.integer], lengths: npt.NDArray[np.integer]) -> "Ragged":
        offsets = _ends(lengths)
        shift = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Ragged(self.values[np.arange(offsets[-1]) + shift], offsets)

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
        position, counts = np.arange(length), self.lengths[:, None]
        inside = position < counts if side == "right" else position >= length - counts
        table[inside] = self.values[self.offsets[0] : self.offsets[-1]]
        return table


def _ends(lengths: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

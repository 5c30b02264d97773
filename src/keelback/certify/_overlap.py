"""Copies among examples: of what a model was trained on, and of each other; exact and near.

A near copy shares most of its shingles, runs of five tokens, with another example: a Jaccard
similarity of about 0.8 or more, estimated from 128 minima of hashes (MinHash). The seeds are fixed,
so that whether an example is a copy of the training data depends on these two alone; the examples
that are left are then independent draws from what remains of the distribution. For repeats within
the sample this is not so: who leaves them out assumes that the others are independent draws.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Policy = Literal["refuse", "drop", "allow"]
"""What becomes of a certificate whose examples are copies of what should be unseen."""

SIMILARITY = 0.8
_SHINGLE = 5
_HASHES = 128
_BANDS = 32
_PRIME = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Overlap:
    """Which examples of a sample are copies.

    Attributes:
        exact: rows that also stand in the training data, token by token.
        near: rows that nearly do.
        within: rows that repeat an earlier row of the sample, exactly or nearly.

    Examples:
        >>> overlap = Overlap(exact=[1])
        >>> bool(overlap), overlap.rows
        (True, [1])
    """

    exact: list[int] = field(default_factory=list)
    near: list[int] = field(default_factory=list)
    within: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.exact or self.near or self.within)

    @property
    def rows(self) -> list[int]:
        """All rows that are copies of something."""
        return sorted({*self.exact, *self.near, *self.within})

    def kept(self, size: int) -> list[int]:
        """The rows that are copies of nothing."""
        copies = set(self.rows)
        return [row for row in range(size) if row not in copies]

    def counts(self) -> dict[str, Any]:
        """How many copies of each kind."""
        return {"exact": len(self.exact), "near": len(self.near), "within": len(self.within)}


def find_overlap(
    sample: Sequence[Sequence[int]], training: Sequence[Sequence[int]], *, near: bool = True
) -> Overlap:
    """Rows of `sample` that are copies of rows of `training` or of earlier rows of `sample`.

    Args:
        sample: sequences of token ids (or of bytes).
        training: what the model was trained on.
        near: whether to look for near copies as well; of no use where tokens are few, as in strings
            of bits, whose shingles all agree.

    Examples:
        >>> training = [[4, 5, 6], [7, 8, 9]]
        >>> found = find_overlap([[1, 2, 3], [4, 5, 6]], training, near=False)
        >>> found.exact, found.kept(2)
        ([1], [0])
    """
    seen = {_digest(row) for row in training}
    exact, within, first_of = [], [], set()
    for index, row in enumerate(sample):
        digest = _digest(row)
        if digest in seen:
            exact.append(index)
        if digest in first_of:
            within.append(index)
        first_of.add(digest)
    if not near:
        return Overlap(exact, [], within)
    own, theirs = _signatures(sample), _signatures(training)
    known, repeated = set(exact), set(within)
    near_rows = [index for index in _matches(own, theirs) if index not in known]
    again = [index for index in _earlier_matches(own) if index not in repeated]
    return Overlap(exact, near_rows, sorted({*within, *again}))


def _digest(row: Sequence[int]) -> bytes:
    content = row if isinstance(row, bytes) else np.asarray(row, dtype="<i8").tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()


def _signatures(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.uint64]:
    """128 minima of hashed shingles per row."""
    words = np.random.Philox(key=20).random_raw(2 * _HASHES)
    factors, terms = words[:_HASHES] | np.uint64(1), words[_HASHES:]
    found = np.empty((len(rows), _HASHES), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for index, row in enumerate(rows):
            tokens = np.frombuffer(row, np.uint8) if isinstance(row, bytes) else np.asarray(row)
            shingles = _shingles(tokens.astype(np.uint64))
            mixed = shingles[:, None] * factors + terms
            found[index] = (mixed ^ (mixed >> np.uint64(32))).min(0)
    return found


def _shingles(tokens: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Distinct hashes of runs of five tokens; of the whole row where it is shorter."""
    width = min(_SHINGLE, len(tokens))
    count = len(tokens) - width + 1
    hashed = np.zeros(count, dtype=np.uint64)
    for offset in range(width):
        hashed = (hashed ^ (tokens[offset : offset + count] + np.uint64(1))) * _PRIME
        hashed ^= hashed >> np.uint64(29)
    return np.unique(hashed)


def _bands(signatures: npt.NDArray[np.uint64]) -> list[list[bytes]]:
    """Keys under which rows meet that agree in a whole band of four minima, band by band."""
    return [
        [row.tobytes() for row in np.ascontiguousarray(part)]
        for part in np.split(signatures, _BANDS, axis=1)
    ]


def _alike(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> bool:
    return float(np.mean(one == other)) >= SIMILARITY


def _matches(signatures: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64]) -> list[int]:
    matched: set[int] = set()
    for own_keys, other_keys in zip(_bands(signatures), _bands(others), strict=True):
        places: dict[bytes, list[int]] = {}
        for index, key in enumerate(other_keys):
            places.setdefault(key, []).append(index)
        for index, key in enumerate(own_keys):
            if index in matched:
                continue
            candidates = places.get(key, [])
            if any(_alike(signatures[index], others[other]) for other in candidates):
                matched.add(index)
    return sorted(matched)


def _earlier_matches(signatures: npt.NDArray[np.uint64]) -> list[int]:
    matched: set[int] = set()
    for keys in _bands(signatures):
        places: dict[bytes, list[int]] = {}
        for index, key in enumerate(keys):
            earlier = places.setdefault(key, [])
            if index not in matched and any(
                _alike(signatures[index], signatures[other]) for other in earlier
            ):
                matched.add(index)
            earlier.append(index)
    return sorted(matched)

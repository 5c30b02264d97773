"""n-gram models of bytes with add-one smoothing: what a language model should do better than."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keelback.certify._alphabet import BYTES
from keelback.certify._language_losses import UNIT
from keelback.errors import InputError

ORDERS = (1, 2, 3)


@dataclass(frozen=True)
class NGrams:
    """Counts of runs of `order` bytes, line breaks standing before each document.

    p(b | c) = (count(c b) + 1) / (count(c) + 256), c being the order - 1 bytes before b.
    """

    order: int
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, order: int, documents: Sequence[bytes]) -> "NGrams":
        """Count in documents.

        Raises:
            InputError: an order other than 1, 2 or 3.
        """
        if order not in ORDERS:
            raise InputError(f"order = {order} must be one of {ORDERS}")
        counts = np.zeros(BYTES**order, dtype=np.int64)
        for document in documents:
            np.add.at(counts, _places(document, order), 1)
        return cls(order, counts.reshape(-1, BYTES))

    @property
    def largest(self) -> int:
        """How often the commonest context was seen."""
        return int(self.counts.sum(1).max())

    @property
    def width(self) -> float:
        """The largest loss, log2(256 + the largest count of a context), rounded up to units."""
        return (math.ceil(math.log2(BYTES + self.largest) / UNIT) + 2) * UNIT

    def means(self, documents: Sequence[bytes]) -> list[int]:
        """Bits per byte of each document, in whole units, rounded up."""
        of_contexts, flat = self.counts.sum(1), self.counts.ravel()
        found = []
        for document in documents:
            places = _places(document, self.order)
            ratio = (of_contexts[places // BYTES] + BYTES) / (flat[places] + 1)
            found.append(math.ceil(float(np.log2(ratio).mean()) / UNIT) + 1)
        return found


def _places(document: bytes, order: int) -> npt.NDArray[np.int64]:
    """The number that each run of `order` bytes is, the last digit being the byte itself."""
    padded = np.frombuffer(b"\n" * (order - 1) + document, dtype=np.uint8).astype(np.int64)
    places = np.zeros(len(document), dtype=np.int64)
    for offset in range(order):
        places = places * BYTES + padded[offset : offset + len(document)]
    return places

"""Which positions an audit speaks of: bins of positions, and the training length among them."""

import itertools
from dataclasses import dataclass

import numpy as np

_BINS_PER_OCTAVE = 4
_STATES_SAMPLED = 48


@dataclass(frozen=True)
class Span:
    """Sequences of `length` tokens, of a model that was trained on `train_length`."""

    length: int
    train_length: int

    @property
    def reaches_beyond(self) -> bool:
        """Whether there are positions that training never saw."""
        return self.length > self.train_length

    @property
    def within(self) -> slice:
        """Positions that training saw."""
        return slice(0, min(self.length, self.train_length))

    @property
    def settled(self) -> slice:
        """The later half of the positions that training saw, past the start of the sequence."""
        return slice(self.within.stop // 2, self.within.stop)

    @property
    def beyond(self) -> slice:
        """Positions that training never saw; empty if there are none."""
        return slice(self.within.stop, self.length)

    def bins(self) -> list[slice]:
        """Positions in bins that grow geometrically; the training length is an edge."""
        octaves = np.log2(self.length / self.train_length)
        down = np.ceil(np.log2(self.train_length)) * _BINS_PER_OCTAVE
        steps = np.arange(-down, np.ceil(octaves * _BINS_PER_OCTAVE))
        inner = np.rint(self.train_length * 2.0 ** (steps / _BINS_PER_OCTAVE)).astype(int)
        edges = np.unique([0, *inner[(inner > 0) & (inner < self.length)], self.length]).tolist()
        return [slice(low, high) for low, high in itertools.pairwise(edges)]

    def sampled_positions(self) -> list[int]:
        """Ascending positions at which states are looked at, the last of training among them."""
        spread = np.geomspace(1, self.length, min(_STATES_SAMPLED, self.length))
        chosen = np.rint(spread).astype(int) - 1
        return np.unique([*chosen, self.within.stop - 1, self.length - 1]).tolist()

    def restart_windows(self) -> list[tuple[slice, slice]]:
        """Windows no longer than training's that cover `beyond`, and the part of each that counts.

        A window starts half a training length before the part that it is scored on, so that every
        token beyond the training length is also seen in a context that training knew.
        """
        context = max(1, self.train_length // 2)
        step = max(1, self.train_length - context)
        scored = [
            slice(start, min(start + step, self.length))
            for start in range(self.beyond.start, self.length, step)
        ]
        return [(slice(part.start - context, part.stop), part) for part in scored]

"""Quantiles of a positive quantity that streams by, from a histogram on a logarithmic scale."""

import math

import torch
from torch import Tensor

_LOWEST, _HIGHEST = -64, 64
_BINS_PER_OCTAVE = 64
_MOST_AT_ONCE = 1 << 18


class LogHistogram:
    """Counts of positive values in bins a 64th of an octave wide: quantiles within 0.6 %.

    Values of zero and below are counted as the smallest, infinite ones as the largest, NaN not at
    all. The least and the greatest value are exact. Of more than a quarter of a million values at
    once, only an evenly spaced part is counted.
    """

    def __init__(self) -> None:
        self._counts = torch.zeros((_HIGHEST - _LOWEST) * _BINS_PER_OCTAVE, dtype=torch.int64)
        self.least, self.greatest = float("inf"), float("-inf")

    def add(self, values: Tensor) -> None:
        """Count `values`, of any shape; the first two axes are thinned if there are too many."""
        if values.numel() == 0:
            return
        low, high = values.aminmax()
        if bool(low.isnan()):
            self.add(values[~values.isnan()])
            return
        self.least = min(self.least, float(low))
        self.greatest = max(self.greatest, float(high))
        values = values.flatten(0, -2) if values.ndim > 1 else values
        values = values[:: -(-values.numel() // _MOST_AT_ONCE)]
        bins = (torch.log2(values.clamp_min(2.0**_LOWEST)) - _LOWEST) * _BINS_PER_OCTAVE
        last = len(self._counts) - 1
        bins = bins.clamp(0, last).flatten().to(torch.int64)
        self._counts += torch.bincount(bins, minlength=last + 1).cpu()

    def quantile(self, share: float) -> float:
        """The value below which `share` of the counted values lie; NaN if there are none."""
        cumulated = self._counts.cumsum(0)
        total = int(cumulated[-1])
        if total == 0:
            return float("nan")
        rank = share * total
        bin_ = int(torch.searchsorted(cumulated, torch.tensor(math.ceil(rank))))
        bin_ = min(bin_, len(self._counts) - 1)
        before = int(cumulated[bin_ - 1]) if bin_ else 0
        inside = (rank - before) / max(1, int(self._counts[bin_]))
        value = 2.0 ** (_LOWEST + (bin_ + min(max(inside, 0.0), 1.0)) / _BINS_PER_OCTAVE)
        return min(max(value, self.least), self.greatest)

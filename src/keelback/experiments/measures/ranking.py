"""Kendall's rank correlation over chosen pairs of models, with a bootstrap over models."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Pairs = npt.NDArray[np.bool_]

_SPARSE = 0.05
"""Pairs that are fewer than this share are summed as a sparse matrix, which is faster."""


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau_b and its 95 % bootstrap interval; `pairs` says how many pairs it rests on."""

    tau: float
    lower: float
    upper: float
    pairs: int


def bootstrap_counts(models: int, resamples: int, seed: int) -> Values:
    """How often each resample holds each model; the first row is the sample itself."""
    drawn = np.random.default_rng(seed).multinomial(models, [1 / models] * models, resamples)
    return np.vstack([np.ones(models), drawn]).astype(np.float64)


def kendall(
    measure: Values, gap: Values, strata: Sequence[Pairs], counts: Values
) -> Correlation | None:
    """tau_b of a measure with the gap, averaged over strata of pairs of models.

    With one stratum that holds all pairs it is the usual coefficient. With a stratum for each
    hyperparameter, which holds the pairs that differ in it alone, it is the granulated coefficient.
    Pairs with a value that is not a number are left out. A stratum in which the measure (or the
    gap) tells no two models apart counts as 0; None where all are so.

    Source: Kendall, Biometrika 1945 (tau_b); Jiang et al., ICLR 2020, Section 2.2 (granulated).
    """
    known = np.isfinite(measure) & np.isfinite(gap)
    both = known[:, None] & known[None, :]
    x = np.sign(np.where(both, measure[:, None] - measure[None, :], 0.0))
    y = np.sign(np.where(both, gap[:, None] - gap[None, :], 0.0))
    taus, told_apart = [], False
    for pairs in strata:
        chosen = (pairs & both).astype(np.float64)
        agree = _weighted(counts, chosen * x * y)
        differ = _weighted(counts, chosen * np.abs(x)) * _weighted(counts, chosen * np.abs(y))
        told_apart = told_apart or bool(differ[0] > 0)
        taus.append(np.divide(agree, np.sqrt(differ), out=np.zeros_like(agree), where=differ > 0))
    if not told_apart:
        return None
    tau = np.mean(taus, axis=0)
    lower, upper = np.quantile(tau[1:], [0.025, 0.975])
    count = sum(int(np.triu(pairs & both, k=1).sum()) for pairs in strata)
    return Correlation(float(tau[0]), float(lower), float(upper), count)


def _weighted(counts: Values, of_pairs: Values) -> Values:
    """Sum over pairs, each weighted by how often a resample holds it, for each resample."""
    from scipy import sparse  # slow to import

    few = np.count_nonzero(of_pairs) < _SPARSE * of_pairs.size
    summed = counts @ (sparse.csr_array(of_pairs) if few else of_pairs)
    result: Values = (summed * counts).sum(1)
    return result

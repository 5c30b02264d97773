"""The Bayes error of pattern sequences: what no classifier can beat under Gaussian noise.

Two Gaussian mixtures overlap, so the error is positive for every tau > 0, and with it the
population hinge risk; the theorems' zero risk holds only up to it. At the noise of the paper it is
far below the smallest floating-point number, hence bounds in logarithms.
"""

from dataclasses import dataclass
from math import comb, exp, inf, log

import numpy as np
from scipy.special import log_ndtr, logsumexp

from keelback.dynamics.patterns import Locality, MajorityVoting
from keelback.errors import InputError


@dataclass(frozen=True)
class BayesError:
    """Bounds on the smallest possible error rate, as natural logarithms (-inf without noise).

    Examples:
        >>> error = BayesError(log_lower=-9.0, log_upper=-8.0)
        >>> error.log_lower <= error.log_upper
        True
    """

    log_lower: float
    log_upper: float

    @property
    def lower(self) -> float:
        """The lower bound; 0 where it is too small for a float."""
        return exp(self.log_lower)

    @property
    def upper(self) -> float:
        """The upper bound; 0 where it is too small for a float."""
        return exp(self.log_upper)


def bayes_error(pattern: MajorityVoting | Locality, noise: float) -> BayesError:
    """Bound the Bayes error of a pattern under N(0, noise^2 I) on every token.

    Two clean sequences that differ in k tokens lie sqrt(2k) apart, and telling two equally likely
    ones apart errs with probability Q(sqrt(k/2) / noise), Q the normal tail.

    Below: give the classifier all tokens but those that tell the two classes' nearest arrangements
    apart; what is left is a choice between two. Above: decide for the arrangement of class features
    with the highest likelihood, and add up the chances of every arrangement of the wrong class.
    For irrelevant tokens every feature that they may be is an arrangement of its own.

    Raises:
        InputError: for negative noise or more than two classes.

    Examples:
        >>> bayes_error(MajorityVoting(0.4, 0.1), noise=0.1).log_upper < -10
        True
    """
    if not 0 <= noise < inf:
        raise InputError(f"Bayes error: the noise is a finite number >= 0, not {noise}")
    if pattern.classes != 2:
        raise InputError(f"Bayes error: bounds are for two classes, not {pattern.classes}")
    if noise == 0:
        return BayesError(-inf, -inf)
    if isinstance(pattern, Locality):
        return _locality(pattern, noise)
    return _majority(pattern, noise)


def _log_confusion(tokens: int, noise: float) -> float:
    return float(log_ndtr(-((tokens / 2) ** 0.5) / noise))


def _capped(log_lower: float, log_terms: list[float]) -> BayesError:
    return BayesError(min(log_lower, log(0.5)), min(float(logsumexp(log_terms)), log(0.5)))


def _majority(pattern: MajorityVoting, noise: float) -> BayesError:
    """Arrangements of the wrong class, counted by what becomes of each kind of token.

    Of own, other and irrelevant tokens, `a -> b` of them change from kind a to kind b. A wrong
    sequence has the counts of own and other exchanged.
    """
    own, other = pattern.own_tokens, pattern.other_tokens
    rest, choices = pattern.length - own - other, pattern.dim - 2
    terms = []
    for own_to_other in range(own + 1):
        for own_to_rest in range(own - own_to_other + 1):
            for other_to_own in range(other + 1):
                for other_to_rest in range(other - other_to_own + 1):
                    rest_to_own = other - (own - own_to_other - own_to_rest) - other_to_own
                    rest_to_other = own - (other - other_to_own - other_to_rest) - own_to_other
                    if rest_to_own < 0 or rest_to_other < 0 or rest_to_own + rest_to_other > rest:
                        continue
                    ways = (
                        log(comb(own, own_to_other))
                        + log(comb(own - own_to_other, own_to_rest))
                        + log(comb(other, other_to_own))
                        + log(comb(other - other_to_own, other_to_rest))
                        + log(comb(rest, rest_to_own))
                        + log(comb(rest - rest_to_own, rest_to_other))
                        + (own_to_rest + other_to_rest) * log(choices)
                    )
                    moved = own_to_other + own_to_rest + other_to_own + other_to_rest
                    kept = rest - rest_to_own - rest_to_other
                    terms += _with_changed_rest(
                        ways, moved + rest_to_own + rest_to_other, kept, choices, noise
                    )
    return _capped(_log_confusion(own - other, noise), terms)


def _with_changed_rest(
    ways: float, changed: int, kept: int, choices: int, noise: float
) -> list[float]:
    """Log terms for any number of the `kept` irrelevant tokens taking another feature."""
    return [
        ways
        + log(comb(kept, k))
        + (k * log(choices - 1) if k else 0.0)
        + _log_confusion(changed + k, noise)
        for k in range(kept + 1 if choices > 1 else 1)
    ]


def _locality(pattern: Locality, noise: float) -> BayesError:
    """Arrangements of the wrong class, counted by how many tokens differ and of which kind."""
    plus, minus = _layouts(pattern, label=0), _layouts(pattern, label=1)
    choices = pattern.dim - 2
    kept = _shared(plus, minus, -1)
    differ = pattern.length - kept - _shared(plus, minus, 0) - _shared(plus, minus, 1)
    freed = pattern.length - 4 - kept
    edges = np.where(differ == differ.min(), float(choices) ** freed, 0.0)
    matched = edges.sum() / (max(edges.sum(0).max(), edges.sum(1).max()) * len(plus))
    kinds, counts = np.unique(
        np.stack([differ.ravel(), freed.ravel(), kept.ravel()]), axis=1, return_counts=True
    )
    terms = []
    for (changed, moved, unchanged), count in zip(kinds.T.tolist(), counts.tolist(), strict=True):
        ways = log(count / len(plus)) + moved * log(choices)
        terms += _with_changed_rest(ways, changed, unchanged, choices, noise)
    return _capped(log(matched) + _log_confusion(int(differ.min()), noise), terms)


def _shared(first: np.ndarray, second: np.ndarray, kind: int) -> np.ndarray:
    """For every pair of layouts, how many positions hold `kind` in both."""
    ours, theirs = (first == kind).astype(np.float32), (second == kind).astype(np.float32)
    return np.rint(ours @ theirs.T).astype(np.int64)


def _layouts(pattern: Locality, label: int) -> np.ndarray:
    """Every placement of the class features as a row of 0 (o_+), 1 (o_-) and -1 (irrelevant)."""
    near, far = pattern.placements.T
    rows = np.arange(len(near))
    layout = np.full((len(near), pattern.length), -1, dtype=np.int8)
    layout[rows, near] = layout[rows, near + pattern.near] = label
    layout[rows, far] = layout[rows, far + pattern.far] = 1 - label
    return layout

"""Losses of independent documents: bounds on the expected loss of a new one."""

import math

from keelback.bounds._risk import kl_inverse
from keelback.errors import InputError


def document_bound(mean: float, variance: float, documents: int, confidence: float) -> float:
    """Upper bound on the expectation of independent values in [0, 1], of one distribution.

    The smaller of kl^{-1}(mean; (confidence + log 2) / n) and the empirical Bernstein bound

        mean + sqrt(2 variance c / n) + 7 c / (3 (n - 1)),   c = confidence + log 4,

    each with half of the failure probability e^-confidence. By Pinsker's inequality the first is
    never above Hoeffding's mean + sqrt((confidence + log 2) / (2 n)).

    Args:
        mean: mean of the values; for a loss in [0, width], in units of the width.
        variance: sample variance, with n - 1 in the denominator.
        documents: n, at least 2.
        confidence: log(1 / failure probability), as of `occam_confidence`.

    Raises:
        InputError: an argument is outside its domain.

    Source: Hoeffding, JASA 1963, Theorem 1; Maurer and Pontil, COLT 2009, Theorem 4.

    Examples:
        >>> 0.1 < document_bound(mean=0.1, variance=0.01, documents=1000, confidence=3.0) < 0.2
        True
    """
    check_documents(mean, variance, documents, confidence)
    by_kl = kl_inverse(mean, (confidence + math.log(2)) / documents)
    log_term = confidence + math.log(4)
    spread = math.sqrt(2 * variance * log_term / documents)
    return min(by_kl, mean + spread + 7 * log_term / (3 * (documents - 1)), 1.0)


def check_documents(mean: float, variance: float, documents: int, confidence: float) -> None:
    """Raise an InputError unless mean in [0, 1], variance >= 0, n >= 2 and confidence >= 0."""
    if documents < 2 or not 0 <= mean <= 1 or not variance >= 0 or not confidence >= 0:
        raise InputError(
            "a bound from documents needs two of them, a mean in [0, 1] and a variance and a "
            f"confidence >= 0, not {documents}, {mean:g}, {variance:g} and {confidence:g}"
        )

"""The two inversions behind a PAC-Bayes certificate: Seeger's bound, and a mean from draws."""

import math
from collections.abc import Sequence

from keelback.bounds._risk import check_confidence, kl_inverse
from keelback.errors import InputError


def pac_bayes_bound(sample_error: float, kl: float, examples: int, delta: float) -> float:
    """kl^{-1}(sample_error; (KL + log(2 sqrt(n) / delta)) / n), an upper bound on the Gibbs error.

    Raises:
        InputError: no example, a negative KL, an error outside [0, 1] or delta outside (0, 1).

    Source: Seeger, JMLR 2002; Maurer, 2004 (the constant 2 sqrt(n)).

    Examples:
        >>> round(pac_bayes_bound(sample_error=0.1, kl=5.0, examples=1000, delta=0.05), 4)
        0.1531
    """
    check_confidence(delta)
    if examples < 1 or not kl >= 0:
        raise InputError(f"a PAC-Bayes bound needs n >= 1 and KL >= 0, not {examples} and {kl:g}")
    log_term = math.log(2 * math.sqrt(examples)) - math.log(delta)
    return kl_inverse(sample_error, (kl + log_term) / examples)


def test_set_bound(mean: float, examples: int, delta: float) -> float:
    """kl^{-1}(mean; log(1/delta) / n): for the mean of n independent values in [0, 1].

    For a classifier that draws its weights from a distribution that the examples did not decide:
    what `pac_bayes_bound` gives at KL = 0 costs log(2 sqrt(n)) more.

    Raises:
        InputError: no example, a mean outside [0, 1] or delta outside (0, 1).

    Source: Hoeffding, JASA 1963, Theorem 1.

    Examples:
        >>> round(test_set_bound(mean=0.1, examples=1000, delta=0.05), 4)
        0.1248
    """
    check_confidence(delta)
    if examples < 1:
        raise InputError("a test set bound needs at least one example")
    return kl_inverse(mean, -math.log(delta) / examples)


def monte_carlo_bound(values: Sequence[float], delta: float) -> float:
    """Upper confidence bound on the mean of a variable in [0, 1] from independent draws of it.

    The smaller of the kl (Chernoff) tail and the empirical Bernstein bound, at delta / 2 each. The
    second is far better here, because a draw's value is an error rate over many examples and so
    varies little from draw to draw.

    Raises:
        InputError: no draw, or delta outside (0, 1).

    Source: Langford and Caruana, NeurIPS 2001; Maurer and Pontil, COLT 2009, Theorem 4.

    Examples:
        >>> 0.1 < monte_carlo_bound([0.1] * 1000, delta=0.01) < 0.2
        True
    """
    check_confidence(delta)
    k = len(values)
    if k < 1:
        raise InputError("a Monte-Carlo bound needs at least one draw")
    mean = min(1.0, math.fsum(values) / k)
    chernoff = kl_inverse(mean, (math.log(2) - math.log(delta)) / k)
    if k == 1:
        return chernoff
    variance = math.fsum((value - mean) ** 2 for value in values) / (k - 1)
    log_term = math.log(4) - math.log(delta)
    bernstein = mean + math.sqrt(2 * variance * log_term / k) + 7 * log_term / (3 * (k - 1))
    return min(chernoff, bernstein, 1.0)

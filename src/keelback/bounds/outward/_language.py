"""Bounds for language models, from sums of losses and the length of a code, rounded outward."""

import math
from fractions import Fraction

from keelback.bounds._code_length import check_code, check_smoothing
from keelback.bounds._documents import check_documents
from keelback.bounds._martingale import betting_mean, check_rate
from keelback.bounds._numbers import enclosed, flint, upper_end
from keelback.bounds._risk import check_confidence
from keelback.bounds.outward._doubles import exact
from keelback.bounds.outward._inversions import Probability, kl_inverse
from keelback.errors import InputError

_WORKING = 192


def occam_confidence(code_bits: int, delta: Probability, choices: int = 1) -> float:
    """`keelback.bounds.occam_confidence`, rounded up."""
    check_confidence(float(delta))
    check_code(code_bits, choices)
    return upper_end(
        enclosed(lambda: code_bits * exact(2).log() + exact(choices).log() - exact(delta).log())
    )


def largest_loss(vocab_size: int, smoothing: float) -> float:
    """`keelback.bounds.largest_loss`, rounded up; exact where V / alpha is a power of two."""
    check_smoothing(vocab_size, smoothing)
    ratio = vocab_size / Fraction(smoothing)
    power = ratio.numerator.bit_length() - 1
    if ratio == 2**power:
        return float(power)
    return upper_end(enclosed(lambda: exact(ratio).log() / exact(2).log()))


def document_bound(mean: Fraction, variance: Fraction, documents: int, confidence: float) -> float:
    """`keelback.bounds.document_bound`, rounded up; mean and variance are meant exactly."""
    check_documents(float(mean), float(variance), documents, confidence)
    if confidence == math.inf:
        return 1.0
    with flint().ctx.workprec(_WORKING):
        paid = exact(confidence)
        budget = upper_end((paid + exact(2).log()) / documents)
        by_kl = kl_inverse(min(1.0, upper_end(exact(mean))), budget)
        log_term = paid + exact(4).log()
        spread = (2 * exact(variance) * log_term / documents).sqrt()
        bernstein = upper_end(exact(mean) + spread + 7 * log_term / (3 * (documents - 1)))
    return min(by_kl, bernstein, 1.0)


def betting_martingale_bound(
    mean_forecast: Fraction,
    log_wealth: Fraction,
    tokens: int,
    width: float,
    confidence: float,
    rate: float,
) -> float:
    """`keelback.bounds.betting_mean`, rounded up, never above `width`.

    Args:
        mean_forecast: mean of the forecasts, or more.
        log_wealth: sum of log(1 + rate (forecast - loss) / width), or less.
        tokens: how many losses there are.
        width: upper bound on a loss.
        confidence: log(1 / failure probability) for this rate, everything chosen paid for.
        rate: the stake, one of `RATES`.

    Raises:
        InputError: an argument is outside its domain.

    Source: docs/studies/bounds.md, Theorem 12.
    """
    check_rate(rate)
    if tokens < 1 or not mean_forecast >= 0 or not 0 <= width < math.inf or not confidence >= 0:
        raise InputError(
            "a martingale bound needs tokens >= 1 and a forecast, a width and a confidence >= 0, "
            f"not {tokens}, {float(mean_forecast):g}, {width:g} and {confidence:g}"
        )
    if confidence == math.inf:
        return width
    with flint().ctx.workprec(_WORKING):
        bound = betting_mean(
            exact(confidence), exact(tokens), exact(width), exact(rate), exact(mean_forecast),
            exact(log_wealth),
        )  # fmt: skip
        return max(0.0, min(width, upper_end(bound)))

"""Models that a short file describes: what choosing one of them costs."""

import math

from keelback.bounds._risk import check_confidence
from keelback.errors import InputError


def code_length(size: int) -> int:
    """Length in bits of a prefix code for all files of `size` bytes, one or more.

    The code is Elias' gamma code of the size and then the file: 8 size + 2 bit_length(size) - 1.
    The numbers 2^-length of all files there are sum to 1 (Kraft), so that they are a prior.

    Raises:
        InputError: a size below 1.

    Source: Elias, IEEE Transactions on Information Theory 1975.

    Examples:
        >>> code_length(1), code_length(1000)
        (9, 8019)
    """
    if size < 1:
        raise InputError(f"size = {size} must be at least 1 byte")
    return 8 * size + 2 * size.bit_length() - 1


def occam_confidence(code_bits: int, delta: float, choices: int = 1) -> float:
    """log(choices 2^code_bits / delta), in nats: the confidence that one model must be given.

    A bound that holds for each model and each of `choices` settings with probability
    1 - e^-confidence holds with probability 1 - delta for all files and all settings at once, and
    so for those that the data chose. With `code_bits` = 0 the model was fixed before the data.

    Args:
        code_bits: length of the model's prefix code, or 0.
        delta: failure probability of the whole statement.
        choices: number of settings among which the data may choose.

    Raises:
        InputError: a negative length, no choice, or delta outside (0, 1).

    Source: Blumer, Ehrenfeucht, Haussler and Warmuth, Information Processing Letters 1987; Lotfi
    et al., arXiv 2407.18158, for language models; docs/studies/bounds.md, Theorem 13.

    Examples:
        >>> round(occam_confidence(code_bits=8, delta=0.05), 3)
        8.541
    """
    check_confidence(delta)
    check_code(code_bits, choices)
    return code_bits * math.log(2) + math.log(choices) - math.log(delta)


def check_code(code_bits: int, choices: int) -> None:
    """Raise an InputError unless the length is at least 0 and the number of choices at least 1."""
    if code_bits < 0 or choices < 1:
        raise InputError(
            f"a code needs a length >= 0 and choices >= 1, not {code_bits} bits and {choices}"
        )


def largest_loss(vocab_size: int, smoothing: float) -> float:
    """log2(V / alpha) bits, which no token loses more than under (1 - alpha) p + alpha / V.

    Args:
        vocab_size: V, number of tokens that there are.
        smoothing: alpha, share of the uniform distribution.

    Raises:
        InputError: V below 1 or alpha outside (0, 1].

    Examples:
        >>> largest_loss(vocab_size=256, smoothing=0.5)
        9.0
    """
    check_smoothing(vocab_size, smoothing)
    return math.log2(vocab_size) - math.log2(smoothing)


def check_smoothing(vocab_size: int, smoothing: float) -> None:
    """Raise an InputError unless V >= 1 and 0 < alpha <= 1."""
    if vocab_size < 1 or not 0 < smoothing <= 1:
        raise InputError(
            f"smoothing needs V >= 1 and alpha in (0, 1], not {vocab_size} and {smoothing:g}"
        )

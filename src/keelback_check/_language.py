"""What a certificate says of a language model, recomputed from sums and code length."""

from fractions import Fraction
from typing import Any

from flint import arb

from keelback_check._numbers import count, double, kl, need, real

UNITS = 2**20
SMOOTHINGS = [Fraction(1, 2**power) for power in range(1, 17)]
RATES = [Fraction(quarters, 2**power) for power in range(3, 19) for quarters in (4, 5, 6, 7)]


def confidence(code_bits: int, choices: int, delta: Fraction) -> Any:
    """log(choices 2^code_bits / delta): a prefix code and a union bound."""
    return code_bits * arb(2).log() + (choices / real(delta)).log()


def width_of(e: dict[str, Any], *, bits: bool) -> Fraction:
    """The largest loss: log2(V / smoothing) bits, in units rounded up, or one error."""
    smoothing, width = double(e["smoothing"]), double(e["width"])
    need(smoothing in SMOOTHINGS, "the smoothing is none of those that are paid for")
    vocab_size = count(e.get("vocab_size", 256), 2)
    whole, power = vocab_size.bit_length() - 1, SMOOTHINGS.index(smoothing) + 1
    if not bits or vocab_size == 2**whole:
        need(width == (whole + power if bits else 1), "the width is not that of the smoothing")
        return width
    beyond = real(width - power) - arb(vocab_size).log() / arb(2).log()
    need(0 < beyond < arb(2) ** -19, "the width is not that of the smoothing")
    return width


def along(e: dict[str, Any], delta: Fraction, p: Fraction, *, bits: bool) -> Any:
    """Betting on forecasts, at any stopping time: how far p is above the bound.

    Sums run over tokens, bytes where there are no others; bits are divided by bytes.
    """
    width, rate = width_of(e, bits=bits), double(e["rate"])
    need(rate in RATES, "the rate is none of those that are paid for")
    tokens = count(e.get("tokens", e["bytes"]), count(e["examples"], 1))
    size, forecast = count(e["bytes"], tokens), count(e["forecast"])
    n = size if bits else tokens
    if type(e["log_wealth"]) is not int:
        need(False, "the logarithm of the wealth is no whole number")
    wealth = real(Fraction(e["log_wealth"], UNITS))
    most = 1 + real(rate * Fraction(forecast, UNITS * tokens) / width)  # No loss at all; Jensen.
    need(not wealth > tokens * most.log(), "the wealth is more than these forecasts can win")
    paid = confidence(count(e["code_bits"]), len(SMOOTHINGS) * len(RATES), delta)
    excess = real(width) * (paid - wealth) / (real(rate) * n)
    return real(p) - real(Fraction(forecast, UNITS * n)) - excess


def new(e: dict[str, Any], delta: Fraction, p: Fraction, choices: int = 16) -> Any:
    """Independent documents: Chernoff by kl, or Maurer and Pontil 2009, half of delta each."""
    n, width = count(e["examples"], 2), double(e["width"])
    need(width > 0, "the width is not positive")
    total, squares = count(e["sum"]), count(e["squares"])
    whole = width * UNITS
    need(total <= n * whole, "losses above the width")
    need(total**2 <= n * squares <= n * whole * total, "sums that no losses have")
    mean = Fraction(total) / (n * whole)
    variance = (squares - Fraction(total**2, n)) / ((n - 1) * whole**2)
    paid = confidence(count(e.get("code_bits", 0)), choices, delta)
    log_4 = paid + arb(4).log()
    bernstein = real(mean) + (2 * real(variance) * log_4 / n).sqrt() + 7 * log_4 / (3 * (n - 1))
    share = p / width
    by_kl = mean < share and kl(mean, share) >= (paid + arb(2).log()) / n
    return arb(0) if by_kl or bernstein <= real(share) else arb(-1)


def bits_along(e: dict[str, Any], delta: Fraction, p: Fraction) -> Any:
    """Bits along the text."""
    return along(e, delta, p, bits=True)


def errors_along(e: dict[str, Any], delta: Fraction, p: Fraction) -> Any:
    """Errors along the text."""
    return along(e, delta, p, bits=False)


def bits_of_new(e: dict[str, Any], delta: Fraction, p: Fraction) -> Any:
    """Bits of a new document."""
    width_of(e, bits=True)
    return new(e, delta, p)


def errors_in_new(e: dict[str, Any], delta: Fraction, p: Fraction) -> Any:
    """Errors in a new document."""
    width_of(e, bits=False)
    return new(e, delta, p)


def ngram(e: dict[str, Any], delta: Fraction, p: Fraction) -> Any:
    """Bits of a new document under an n-gram model that other documents made."""
    beyond = real(double(e["width"])) - (count(e["largest"], 1) + arb(256)).log() / arb(2).log()
    need(0 < beyond < arb(2) ** -17, "the width is not that of the commonest context")
    return new(e, delta, p, choices=1)


_ALONG = "{forecast} / (2^20 {bytes}) + {width} ({code_bits} log 2 + log(1024 / delta') - {log_wealth} / 2^20) / ({rate} {bytes}) <= {bound}"  # noqa: E501
_PER_TOKEN = _ALONG.replace("{bytes}", "{tokens}")
_NEW = "kl or empirical Bernstein of {sum} and {squares} in units of 2^-20 over {examples} documents, losses at most {width}: <= {bound}"  # noqa: E501
LANGUAGE: dict[str, tuple[Any, str, str]] = {
    "bits along the text": (
        bits_along,
        "the mean over the {bytes} bytes of the expected loss of the next byte, given all bytes "
        "before it, is at most {bound} bits under predictions smoothed by {smoothing}",
        _ALONG,
    ),
    "errors along the text": (
        errors_along,
        "the mean over the {bytes} bytes of the probability that the model's first guess of the "
        "next byte is wrong, given all bytes before it, is at most {bound} under predictions "
        "smoothed by {smoothing}",
        _ALONG,
    ),
    "bits of a new document": (
        bits_of_new,
        "the expected loss of a new document is at most {bound} bits per byte under predictions "
        "smoothed by {smoothing}",
        _NEW,
    ),
    "errors in a new document": (
        errors_in_new,
        "the expected share of bytes of a new document that the model's first guess misses is at "
        "most {bound} under predictions smoothed by {smoothing}",
        _NEW,
    ),
    "token bits along the text": (
        bits_along,
        "the sum over the {tokens} tokens of the expected loss of the next token, given all tokens "
        "before it, divided by the {bytes} bytes that they stand for, is at most {bound} bits per "
        "byte under predictions smoothed by {smoothing}",
        _ALONG,
    ),
    "token errors along the text": (
        errors_along,
        "the mean over the {tokens} tokens, which stand for {bytes} bytes, of the probability that "
        "the model's first guess of the next token is wrong, given all tokens before it, is at "
        "most {bound} under predictions smoothed by {smoothing}",
        _PER_TOKEN,
    ),
    "token bits of a new document": (
        bits_of_new,
        "the expected loss of a new document, summed over its tokens and divided by its bytes, is "
        "at most {bound} bits per byte under predictions smoothed by {smoothing}",
        _NEW,
    ),
    "token errors in a new document": (
        errors_in_new,
        "the expected share of tokens of a new document that the model's first guess misses is at "
        "most {bound} under predictions smoothed by {smoothing}",
        _NEW,
    ),
    "n-gram": (
        ngram,
        "the expected loss of a new document under the {order}-gram model of the training text is "
        "at most {bound} bits per byte",
        _NEW,
    ),
}

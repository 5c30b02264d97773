"""Certificates of language models over bytes or tokens: bits per byte and next-token error."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import fmean, variance
from typing import Any

from torch import nn

from keelback.bounds import (
    RATES,
    azuma_excess,
    best_rate,
    document_bound,
    freedman_excess,
    outward,
)
from keelback.certify._alphabet import BYTES, OF_BYTES, Alphabet
from keelback.certify._certification import paid
from keelback.certify._coded_model import require_alphabet
from keelback.certify._language_losses import (
    SMOOTHINGS,
    UNIT,
    DocumentLosses,
    Stakes,
    losses_under,
)
from keelback.certify._language_sample import Sample
from keelback.certify._ngrams import ORDERS, NGrams
from keelback.progress import tell

UNITS = round(1 / UNIT)
PILOT_BYTES = 20_000

SAYS_NOTHING = 0.99
"""A bound above this share of the largest possible loss is no statement worth its delta."""


@dataclass(frozen=True)
class LanguageStatement:
    """One certified number.

    Attributes:
        kind: which, as in the certificate.
        bound: in bits per byte, or a probability.
        evidence: what was counted.
    """

    kind: str
    bound: float
    evidence: dict[str, Any]

    @property
    def name(self) -> str:
        """The kind, or `2-gram` for one of the n-gram models."""
        return f"{self.evidence['order']}-gram" if self.kind == "n-gram" else self.kind


@dataclass(frozen=True)
class LanguageCertification:
    """What is certified about a language model, each statement at confidence 1 - delta.

    Attributes:
        delta: failure probability of each statement.
        attempt: which attempt on these documents this is, from 1.
        sample: the documents and what was found among them.
        statements: the certified numbers.
        measured: bits per byte and error on the documents, of the model and of n-gram models, and
            the same bounds by Azuma and Freedman.
        alphabet: what the model reads and predicts; errors are per token of it.

    Examples:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=256, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny)
        >>> unseen, seen = [bytes(range(40)), bytes(range(40, 80))], [bytes(80)]
        >>> sample = sample_of(unseen, training=seen)
        >>> found = certify_language(model, sample, context=8, window=16, training=seen)
        >>> found.sample.as_dict()["counted"]  # documents
        2
    """

    delta: float
    attempt: int
    sample: Sample
    statements: Sequence[LanguageStatement]
    measured: dict[str, Any]
    alphabet: Alphabet = OF_BYTES

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "notices": [self.sample.notice()],
            "delta": self.delta,
            "attempt": self.attempt,
            "delta_after_attempts": float(paid(self.delta, self.attempt)),
            "joint_confidence": float(1 - len(self.statements) * Fraction(str(self.delta))),
            "statements": {own.name: own.bound for own in self.statements},
            "measured": self.measured,
        }


def certify_language(
    model: nn.Module,
    sample: Sample,
    *,
    context: int,
    window: int,
    training: Sequence[bytes] | None = None,
    delta: float = 0.05,
    attempt: int = 1,
    alphabet: Alphabet = OF_BYTES,
) -> LanguageCertification:
    """Certify the losses of a language model on documents, in bits per byte.

    Along the text: the mean over its bytes of the expected loss of the next byte given all before
    it (betting, at any stopping time); left out where documents were drawn from the text, since
    its first bytes then tell which document it is. Of new documents: the expected loss of a
    document's average byte. A statement that would say nothing is left out.

    Of a model over tokens: the sum over the tokens of the expected loss of the next one given all
    tokens before it, divided by the bytes of the text; the expected loss of a new document's
    tokens together, divided by its bytes. Errors are per token.

    Args:
        model: a language model of transformers over the alphabet, in evaluation mode.
        sample: from `sample_of`.
        context: tokens that the model reads again before a window.
        window: tokens that it predicts at a time.
        training: what the n-gram models are made from; the documents themselves where None.
        delta: failure probability of each statement.
        attempt: which attempt on these documents this is, from 1.
        alphabet: what the model reads; part of its code.

    Raises:
        InputError: python-flint is missing, no documents, a model over another number of tokens,
            or an argument outside its domain.

    Source: docs/studies/bounds.md, Theorems 12 and 13.

    Examples:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=256, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny)
        >>> unseen, seen = [bytes(range(40)), bytes(range(40, 80))], [bytes(80)]
        >>> sample = sample_of(unseen, training=seen)
        >>> found = certify_language(model, sample, context=8, window=16, training=seen)
        >>> found.delta, found.attempt
        (0.05, 1)
    """
    share = paid(delta, attempt)
    require_alphabet(model, alphabet)
    documents, code_bits = sample.documents, sample.code_bits
    along = outward.occam_confidence(code_bits, share, len(SMOOTHINGS) * len(RATES))
    new = outward.occam_confidence(code_bits, share, len(SMOOTHINGS))
    reader = Reader(model, context, window, alphabet)
    tell("choosing the smoothing on the first documents")
    first = first_bytes(documents, PILOT_BYTES)
    whole = sum(map(len, documents))
    stakes = (
        stakes_along(reader, first, along / whole)
        if sample.draw is None
        else stakes_for_documents(reader, first, len(documents), new)
    )
    [losses] = reader.losses(documents, [stakes])
    statements = _statements_along(losses, sample, along) if sample.draw is None else []
    if len(documents) > 1:
        statements += _statements_of_new(losses, code_bits, new)
    tell("counting n-grams")
    measured: dict[str, Any] = {
        "documents": len(documents),
        "bytes": whole,
        **({} if alphabet == OF_BYTES else {"tokens": sum(losses.tokens)}),
        "smoothing": stakes.smoothing,
        "bits_per_byte": sum(losses.bits.loss) / UNITS / whole,
        "error": sum(losses.errors.loss) / UNITS / sum(losses.tokens),
        "nats_paid_per_byte": along / whole,
        "spread": (sum(losses.bits.squares) / UNITS / sum(losses.tokens)) ** 0.5,
        "ngrams": {},
    }
    if sample.draw is None:
        measured |= {
            "by_azuma": _by_azuma(losses, along),
            "by_freedman": _by_freedman(losses, along),
        }
    for order in ORDERS:
        found = NGrams.of(order, documents if training is None else training)
        means = found.means(documents)
        weighed = sum(mean * size for mean, size in zip(means, losses.sizes, strict=True))
        measured["ngrams"][str(order)] = weighed / UNITS / whole
        if training is not None:
            confidence = outward.occam_confidence(0, share)
            more = {"order": order, "largest": found.largest}
            statements.append(_new("n-gram", means, found.width, confidence, more))
    kept = [own for own in statements if own.bound < SAYS_NOTHING * own.evidence["width"]]
    return LanguageCertification(delta, attempt, sample, kept, measured, alphabet)


@dataclass(frozen=True)
class Reader:
    """A language model and how it reads a text.

    Attributes:
        model: of transformers, in evaluation mode.
        context: tokens before a window.
        window: tokens that are predicted at a time.
        alphabet: what the model reads.
    """

    model: nn.Module
    context: int
    window: int
    alphabet: Alphabet = OF_BYTES

    def losses(self, documents: Sequence[bytes], choices: Sequence[Stakes]) -> list[DocumentLosses]:
        """The losses of documents under each of several smoothings and rates."""
        vocab_size = self.alphabet.vocab_size
        return losses_under(
            self.model,
            documents,
            context=self.context,
            window=self.window,
            choices=[replace(own, vocab_size=vocab_size) for own in choices],
            alphabet=self.alphabet,
        )


def first_bytes(documents: Sequence[bytes], size: int) -> list[bytes]:
    """The first documents, the last one cut, so that they have `size` bytes at most."""
    first: list[bytes] = []
    for document in documents:
        first.append(document[: size - sum(map(len, first))])
        if sum(map(len, first)) >= size:
            break
    return first


def stakes_along(reader: Reader, first: Sequence[bytes], price: float) -> Stakes:
    """The smoothing and the rates that promise the smallest bounds along the text.

    Args:
        reader: the model.
        first: documents to try them on.
        price: nats per byte of the text that confidence and code cost.
    """
    paid_for = price * sum(map(len, first))
    found = []
    for losses in reader.losses(first, _CHOICES):
        width, n = losses.stakes.width, sum(losses.tokens)
        squares = sum(losses.bits.squares) / UNITS
        rate = best_rate(paid_for, n, width, squares)
        excess = freedman_excess(paid_for, n, width, rate, squares)
        of_errors = best_rate(paid_for, n, 1.0, sum(losses.errors.squares) / UNITS)
        mean = sum(losses.bits.loss) / UNITS / n
        stakes = replace(losses.stakes, bits=rate, errors=of_errors)
        found.append((mean + excess, stakes))
    return min(found, key=lambda pair: pair[0])[1]


def stakes_for_documents(
    reader: Reader, first: Sequence[bytes], documents: int, confidence: float
) -> Stakes:
    """The smoothing that promises the smallest bound on the bits of a new document.

    Args:
        reader: the model.
        first: documents to try them on.
        documents: how many will be counted.
        confidence: of the bound, in nats.
    """

    def promised(losses: DocumentLosses) -> float:
        width = losses.stakes.width
        shares = [
            min(1.0, loss / UNITS / size / width)
            for loss, size in zip(losses.bits.loss, losses.sizes, strict=True)
        ]
        spread = variance(shares) if len(shares) > 1 else 0.25
        return width * document_bound(fmean(shares), spread, documents, confidence)

    return min(reader.losses(first, _CHOICES), key=promised).stakes


_CHOICES = [Stakes(smoothing, RATES[0], RATES[0]) for smoothing in SMOOTHINGS[:10]]


def _kind(kind: str, losses: DocumentLosses) -> tuple[str, dict[str, Any]]:
    """The kind's name and what is counted besides, of a model over tokens where it is one."""
    if losses.stakes.vocab_size == BYTES:
        return kind, {}
    return f"token {kind}", {"vocab_size": losses.stakes.vocab_size}


def _statements_along(
    losses: DocumentLosses, sample: Sample, confidence: float
) -> list[LanguageStatement]:
    """Bits are per byte, errors per token: sums over tokens, divided by the one or the other."""
    stakes = losses.stakes
    size, tokens = sum(losses.sizes), sum(losses.tokens)
    found = []
    for name, sums, width, rate, per in (
        ("bits along the text", losses.bits, stakes.width, stakes.bits, size),
        ("errors along the text", losses.errors, 1.0, stakes.errors, tokens),
    ):
        kind, more = _kind(name, losses)
        if more:
            more["tokens"] = tokens
        forecast, log_wealth = sum(sums.forecast), sum(sums.log_wealth)
        bound = outward.betting_martingale_bound(
            Fraction(forecast, UNITS * per), Fraction(log_wealth, UNITS), per, width, confidence,
            rate,
        )  # fmt: skip
        evidence = {
            "examples": len(losses.sizes), "bytes": size, **more, "code_bits": sample.code_bits,
            "smoothing": stakes.smoothing, "width": width, "rate": rate, "forecast": forecast,
            "log_wealth": log_wealth,
        }  # fmt: skip
        found.append(LanguageStatement(kind, bound, evidence))
    return found


def _statements_of_new(
    losses: DocumentLosses, code_bits: int, confidence: float
) -> list[LanguageStatement]:
    """A document has no more tokens than bytes, so that its bits per byte are within the width."""
    found = []
    for name, sums, width, per in (
        ("bits of a new document", losses.bits, losses.stakes.width, losses.sizes),
        ("errors in a new document", losses.errors, 1.0, losses.tokens),
    ):
        kind, more = _kind(name, losses)
        means = [
            min(-(-loss // size), round(width * UNITS))
            for loss, size in zip(sums.loss, per, strict=True)
        ]
        evidence = {"code_bits": code_bits, "smoothing": losses.stakes.smoothing, **more}
        found.append(_new(kind, means, width, confidence, evidence))
    return found


def _new(
    kind: str, means: Sequence[int], width: float, confidence: float, more: dict[str, Any]
) -> LanguageStatement:
    """From each document's mean loss in whole units."""
    n, total, squares = len(means), sum(means), sum(mean**2 for mean in means)
    whole = Fraction(width) * UNITS
    mean = min(Fraction(1), Fraction(total) / (n * whole))
    variance = (squares - Fraction(total**2, n)) / ((n - 1) * whole**2)
    share = outward.document_bound(mean, variance, n, confidence)
    bound = min(width, outward.times(share, width))
    evidence = {"examples": n, "width": width, "sum": total, "squares": squares, **more}
    return LanguageStatement(kind, bound, evidence)


def _by_azuma(losses: DocumentLosses, confidence: float) -> float:
    n, width = sum(losses.tokens), losses.stakes.width
    rate = best_rate(confidence, n, width)
    excess = float(azuma_excess(confidence, n, width, rate))
    return (sum(losses.bits.loss) / UNITS + n * excess) / sum(losses.sizes)


def _by_freedman(losses: DocumentLosses, confidence: float) -> float:
    n, width = sum(losses.tokens), losses.stakes.width
    squares = sum(losses.bits.squares) / UNITS
    rate = best_rate(confidence, n, width, squares)
    excess = float(freedman_excess(confidence, n, width, rate, squares))
    return (sum(losses.bits.loss) / UNITS + n * excess) / sum(losses.sizes)

"""Certificates of byte-level language models: bits per byte and next-byte error."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean, variance
from typing import Any

import numpy as np
from torch import nn

from keelback.bounds import (
    RATES,
    azuma_excess,
    best_rate,
    document_bound,
    freedman_excess,
    outward,
)
from keelback.certify._certification import paid
from keelback.certify._language_losses import (
    SMOOTHINGS,
    UNIT,
    DocumentLosses,
    Stakes,
    Sums,
    document_losses,
    losses_under,
)
from keelback.certify._ngrams import ORDERS, NGrams
from keelback.certify._overlap import Overlap, Policy, find_overlap
from keelback.certify._unseen import described
from keelback.errors import InputError
from keelback.progress import tell

UNITS = round(1 / UNIT)
PILOT_BYTES = 20_000

SAYS_NOTHING = 0.99
"""A bound above this share of the largest possible loss is no statement worth its delta."""


@dataclass(frozen=True)
class Draw:
    """Documents that were drawn from a text, independently and with replacement.

    Attributes:
        population: how many documents each draw was among, all of them as likely.
        seed: of NumPy's generator PCG64.

    Examples:
        >>> documents = [b"one", b"two", b"three"]
        >>> sample_of(documents, training=[b"another"], draw=10, seed=4).draw
        Draw(population=3, seed=4)
    """

    population: int
    seed: int


@dataclass(frozen=True)
class Sample:
    """The documents that a certificate counts, and why it may.

    Attributes:
        documents: their bytes.
        code_bits: length of the model's code where it may have been trained on them, else 0.
        overlap: copies among all documents, where the model was trained on others.
        policy: what became of copies.
        draw: how the documents were drawn from the text; None where they are the text.
    """

    documents: Sequence[bytes]
    code_bits: int
    overlap: Overlap
    policy: Policy | None
    draw: Draw | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        counted = {"counted": len(self.documents)}
        if self.code_bits:
            return {"code_bits": self.code_bits, **counted}
        draw = {"population": None, "seed": None} if self.draw is None else vars(self.draw)
        return {**self.overlap.counts(), "drawn": False, "policy": self.policy, **draw, **counted}

    def notice(self) -> str:
        """One sentence on what the model may have seen."""
        if self.code_bits:
            return (
                f"The model may have been trained on these documents: the {self.code_bits} bits of "
                "its code are paid for."
            )
        copies = described(self.overlap, near_copies=True)
        if not self.overlap:
            return f"Among the documents there are {copies}."
        if self.policy == "drop":
            return f"Left out of the documents: {copies}."
        return f"WARNING: among the documents there are {copies}, counted as if they were new."


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
        attempt: the how manieth configuration this is that was tried on these documents.
        sample: the documents and what was found among them.
        statements: the certified numbers.
        measured: bits per byte and error on the documents, of the model and of n-gram models, and
            the same bounds by Azuma and Freedman.

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


def sample_of(
    documents: Sequence[bytes],
    *,
    code_bits: int = 0,
    training: Sequence[bytes] | None = None,
    policy: Policy = "refuse",
    draw: int | None = None,
    seed: int = 0,
) -> Sample:
    """The documents to count: all, where the code is paid for; else those that are no copies.

    With `draw`, so many of them, each drawn independently from all that may be counted: bounds for
    a new document then speak of a document drawn from these, and assume nothing about how they
    came about.

    Args:
        documents: of the certificate.
        code_bits: length of the model's code, if the documents may have been trained on.
        training: what the model was trained on, if it is other documents.
        policy: what to do about copies of training documents, and of documents among each other.
        draw: how many documents to draw, with replacement; None counts each once.
        seed: of the draws, to be fixed before they are looked at.

    Raises:
        InputError: neither or both of code and training documents; copies and the policy is to
            refuse; fewer than two documents left, or to draw; a draw beside a code.

    Examples:
        >>> sample = sample_of([b"one document", b"another one"], training=[b"seen in training"])
        >>> sample.as_dict()["exact"], sample.as_dict()["counted"]
        (0, 2)
    """
    if (training is None) == (code_bits == 0):
        raise InputError("a certificate needs the length of a code, or else training documents")
    if draw is not None and (training is None or draw < 2):
        raise InputError("documents are drawn from a text apart from the training, two at least")
    if training is None:
        return Sample(documents, code_bits, Overlap(), None)
    tell("looking for copies among the documents")
    overlap = find_overlap(documents, training)
    if overlap and policy == "refuse":
        raise InputError(
            f"there are {described(overlap, near_copies=True)} among the {len(documents)} "
            "documents, so that no certificate holds for new ones: --drop-overlap leaves them out, "
            "--allow-overlap counts them and says so"
        )
    rows = overlap.kept(len(documents)) if policy == "drop" else range(len(documents))
    kept = [documents[row] for row in rows]
    if len(kept) < 2:
        raise InputError("fewer than two documents are left to certify")
    if draw is None:
        return Sample(kept, 0, overlap, policy)
    drawn = np.random.default_rng(seed).integers(len(kept), size=draw)
    return Sample([kept[row] for row in drawn], 0, overlap, policy, Draw(len(kept), seed))


def certify_language(
    model: nn.Module,
    sample: Sample,
    *,
    context: int,
    window: int,
    training: Sequence[bytes] | None = None,
    delta: float = 0.05,
    attempt: int = 1,
) -> LanguageCertification:
    """Certify the losses of a byte-level language model on documents.

    Along the text: the mean over its bytes of the expected loss of the next byte given all before
    it (betting, at any stopping time); left out where documents were drawn from the text, since
    its first bytes then tell which document it is. Of new documents: the expected loss of a
    document's average byte. A statement that would say nothing is left out.

    Args:
        model: a language model of transformers over bytes, in evaluation mode.
        sample: from `sample_of`.
        context: bytes that the model reads again before a window.
        window: bytes that it predicts at a time.
        training: what the n-gram models are made from; the documents themselves where None.
        delta: failure probability of each statement.
        attempt: the how manieth configuration this is that is tried on these documents.

    Raises:
        InputError: python-flint is missing, no documents, or an argument outside its domain.

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
    documents, code_bits = sample.documents, sample.code_bits
    sizes = [len(document) for document in documents]
    along = outward.occam_confidence(code_bits, share, len(SMOOTHINGS) * len(RATES))
    new = outward.occam_confidence(code_bits, share, len(SMOOTHINGS))
    tell("choosing the smoothing on the first documents")
    first = first_bytes(documents, PILOT_BYTES)
    stakes = (
        stakes_along(model, first, context, window, along / sum(sizes))
        if sample.draw is None
        else stakes_for_documents(model, first, context, window, len(documents), new)
    )
    losses = document_losses(model, documents, context=context, window=window, stakes=stakes)
    statements = []
    if sample.draw is None:
        for kind, sums, width, rate in (
            ("bits along the text", losses.bits, stakes.width, stakes.bits),
            ("errors along the text", losses.errors, 1.0, stakes.errors),
        ):
            statements.append(_along(kind, sums, width, rate, losses, sample, along))
    if len(documents) > 1:
        for kind, sums, width in (
            ("bits of a new document", losses.bits, stakes.width),
            ("errors in a new document", losses.errors, 1.0),
        ):
            means = [
                min(-(-loss // size), round(width * UNITS))
                for loss, size in zip(sums.loss, sizes, strict=True)
            ]
            more = {"code_bits": code_bits, "smoothing": stakes.smoothing}
            statements.append(_new(kind, means, width, new, more))
    tell("counting n-grams")
    bits_per_byte = sum(losses.bits.loss) / UNITS / sum(sizes)
    measured: dict[str, Any] = {
        "documents": len(documents),
        "bytes": sum(sizes),
        "smoothing": stakes.smoothing,
        "bits_per_byte": bits_per_byte,
        "error": sum(losses.errors.loss) / UNITS / sum(sizes),
        "nats_paid_per_byte": along / sum(sizes),
        "spread": (sum(losses.bits.squares) / UNITS / sum(sizes)) ** 0.5,
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
        weighed = sum(mean * size for mean, size in zip(means, sizes, strict=True))
        measured["ngrams"][str(order)] = weighed / UNITS / sum(sizes)
        if training is not None:
            confidence = outward.occam_confidence(0, share)
            more = {"order": order, "largest": found.largest}
            statements.append(_new("n-gram", means, found.width, confidence, more))
    kept = [own for own in statements if own.bound < SAYS_NOTHING * own.evidence["width"]]
    return LanguageCertification(delta, attempt, sample, kept, measured)


def first_bytes(documents: Sequence[bytes], size: int) -> list[bytes]:
    """The first documents, the last one cut, so that they have `size` bytes at most."""
    first: list[bytes] = []
    for document in documents:
        first.append(document[: size - sum(map(len, first))])
        if sum(map(len, first)) >= size:
            break
    return first


def stakes_along(
    model: nn.Module, first: Sequence[bytes], context: int, window: int, price: float
) -> Stakes:
    """The smoothing and the rates that promise the smallest bounds along the text.

    Args:
        model: as for `certify_language`.
        first: documents to try them on.
        context: bytes before a window.
        window: bytes that are predicted at a time.
        price: nats per byte of the text that confidence and code cost.
    """
    n = sum(map(len, first))
    found = []
    for losses in losses_under(model, first, context=context, window=window, choices=_CHOICES):
        width, smoothing = losses.stakes.width, losses.stakes.smoothing
        squares = sum(losses.bits.squares) / UNITS
        rate = best_rate(price * n, n, width, squares)
        excess = freedman_excess(price * n, n, width, rate, squares)
        of_errors = best_rate(price * n, n, 1.0, sum(losses.errors.squares) / UNITS)
        mean = sum(losses.bits.loss) / UNITS / n
        found.append((mean + excess, Stakes(smoothing, rate, of_errors)))
    return min(found, key=lambda pair: pair[0])[1]


def stakes_for_documents(
    model: nn.Module,
    first: Sequence[bytes],
    context: int,
    window: int,
    documents: int,
    confidence: float,
) -> Stakes:
    """The smoothing that promises the smallest bound on the bits of a new document.

    Args:
        model: as for `certify_language`.
        first: documents to try them on.
        context: bytes before a window.
        window: bytes that are predicted at a time.
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

    tried = losses_under(model, first, context=context, window=window, choices=_CHOICES)
    return min(tried, key=promised).stakes


_CHOICES = [Stakes(smoothing, RATES[0], RATES[0]) for smoothing in SMOOTHINGS[:10]]


def _along(
    kind: str,
    sums: Sums,
    width: float,
    rate: float,
    losses: DocumentLosses,
    sample: Sample,
    confidence: float,
) -> LanguageStatement:
    n = sum(losses.sizes)
    forecast, log_wealth = sum(sums.forecast), sum(sums.log_wealth)
    bound = outward.betting_martingale_bound(
        Fraction(forecast, UNITS * n), Fraction(log_wealth, UNITS), n, width, confidence, rate
    )
    return LanguageStatement(
        kind,
        bound,
        {
            "examples": len(losses.sizes), "bytes": n, "code_bits": sample.code_bits,
            "smoothing": losses.stakes.smoothing, "width": width, "rate": rate,
            "forecast": forecast, "log_wealth": log_wealth,
        },
    )  # fmt: skip


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
    n, width = sum(losses.sizes), losses.stakes.width
    rate = best_rate(confidence, n, width)
    return sum(losses.bits.loss) / UNITS / n + float(azuma_excess(confidence, n, width, rate))


def _by_freedman(losses: DocumentLosses, confidence: float) -> float:
    n, width = sum(losses.sizes), losses.stakes.width
    squares = sum(losses.bits.squares) / UNITS
    rate = best_rate(confidence, n, width, squares)
    excess = freedman_excess(confidence, n, width, rate, squares)
    return sum(losses.bits.loss) / UNITS / n + float(excess)

"""Certificates of byte-level language models: bits per byte and next-byte error."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn

from keelback.bounds import RATES, azuma_excess, best_rate, freedman_excess, outward
from keelback.certify._certification import paid
from keelback.certify._language_losses import (
    SMOOTHINGS,
    UNIT,
    DocumentLosses,
    Stakes,
    Sums,
    document_losses,
)
from keelback.certify._ngrams import ORDERS, NGrams
from keelback.certify._overlap import Overlap, Policy, find_overlap
from keelback.certify._unseen import described
from keelback.errors import InputError
from keelback.progress import tell

UNITS = round(1 / UNIT)
PILOT_BYTES = 20_000


@dataclass(frozen=True)
class Sample:
    """The documents that a certificate counts, and why it may.

    Attributes:
        documents: their bytes.
        code_bits: length of the model's code where it may have been trained on them, else 0.
        overlap: copies among all documents, where the model was trained on others.
        policy: what became of copies.
    """

    documents: Sequence[bytes]
    code_bits: int
    overlap: Overlap
    policy: Policy | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        counted = {"counted": len(self.documents)}
        if self.code_bits:
            return {"code_bits": self.code_bits, **counted}
        return {**self.overlap.counts(), "drawn": False, "policy": self.policy, **counted}

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
            "statements": {own.kind: own.bound for own in self.statements},
            "measured": self.measured,
        }


def sample_of(
    documents: Sequence[bytes],
    *,
    code_bits: int = 0,
    training: Sequence[bytes] | None = None,
    policy: Policy = "refuse",
) -> Sample:
    """The documents to count: all, where the code is paid for; else those that are no copies.

    Args:
        documents: of the certificate.
        code_bits: length of the model's code, if the documents may have been trained on.
        training: what the model was trained on, if it is other documents.
        policy: what to do about copies of training documents, and of documents among each other.

    Raises:
        InputError: neither or both of code and training documents; copies and the policy is to
            refuse; fewer than two documents left.

    Examples:
        >>> sample = sample_of([b"one document", b"another one"], training=[b"seen in training"])
        >>> sample.as_dict()
        {'exact': 0, 'near': 0, 'within': 0, 'drawn': False, 'policy': 'refuse', 'counted': 2}
    """
    if (training is None) == (code_bits == 0):
        raise InputError("a certificate needs the length of a code, or else training documents")
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
    return Sample(kept, 0, overlap, policy)


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
    it (betting, at any stopping time). Of new documents, where they are independent: the
    expected loss of a document's average byte. A statement that would say nothing is left out.

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
    tell("choosing the smoothing on the first documents")
    stakes = choose_stakes(model, documents, context, window, along / sum(sizes))
    losses = document_losses(model, documents, context=context, window=window, stakes=stakes)
    statements = [
        _along(
            "bits along the text", losses.bits, stakes.width, stakes.bits, losses, sample, along
        ),
        _along("errors along the text", losses.errors, 1.0, stakes.errors, losses, sample, along),
    ]
    new = outward.occam_confidence(code_bits, share, len(SMOOTHINGS))
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
        "by_azuma": _by_azuma(losses, along),
        "by_freedman": _by_freedman(losses, along),
        "ngrams": {},
    }
    for order in ORDERS:
        found = NGrams.of(order, documents if training is None else training)
        means = found.means(documents)
        weighed = sum(mean * size for mean, size in zip(means, sizes, strict=True))
        measured["ngrams"][str(order)] = weighed / UNITS / sum(sizes)
        if training is not None:
            confidence = outward.occam_confidence(0, share)
            statements.append(_new("n-gram", means, found.width, confidence, {"order": order}))
    kept = [own for own in statements if own.bound < own.evidence["width"]]
    return LanguageCertification(delta, attempt, sample, kept, measured)


def choose_stakes(
    model: nn.Module, documents: Sequence[bytes], context: int, window: int, price: float
) -> Stakes:
    """The smoothing and the rates that promise the smallest bounds on the first documents.

    Args:
        model: as for `certify_language`.
        documents: of which about 20,000 bytes are run once for each smoothing.
        context: bytes before a window.
        window: bytes that are predicted at a time.
        price: nats per byte of the text that confidence and code cost.
    """
    first: list[bytes] = []
    for document in documents:
        first.append(document[: PILOT_BYTES - sum(map(len, first))])
        if sum(map(len, first)) >= PILOT_BYTES:
            break
    n = sum(map(len, first))
    found = []
    for smoothing in SMOOTHINGS[:10]:
        tried = Stakes(smoothing, RATES[0], RATES[0])
        losses = document_losses(model, first, context=context, window=window, stakes=tried)
        squares = sum(losses.bits.squares) / UNITS
        rate = best_rate(price * n, n, tried.width, squares)
        excess = freedman_excess(price * n, n, tried.width, rate, squares)
        of_errors = best_rate(price * n, n, 1.0, sum(losses.errors.squares) / UNITS)
        mean = sum(losses.bits.loss) / UNITS / n
        found.append((mean + excess, Stakes(smoothing, rate, of_errors)))
    return min(found, key=lambda pair: pair[0])[1]


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

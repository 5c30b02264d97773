"""The certificate of a language model as a file, for `keelback_check`."""

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from keelback.certify._alphabet import OF_BYTES
from keelback.certify._certificate import FORMAT, seal
from keelback.certify._certification import paid
from keelback.certify._language import LanguageCertification
from keelback.certify._language_sample import Sample

_ALONG_SYMBOLS = (
    "{forecast} / (2^20 {per}) + {width} ({code_bits} log 2 + log(1024 / delta') - "
    "{log_wealth} / 2^20) / ({rate} {per}) <= {bound}"
)
_NEW_SYMBOLS = (
    "kl or empirical Bernstein of {sum} and {squares} in units of 2^-20 over {examples} documents, "
    "losses at most {width}: <= {bound}"
)
SENTENCES = {
    "bits along the text": (
        "the mean over the {bytes} bytes of the expected loss of the next byte, given all bytes "
        "before it, is at most {bound} bits under predictions smoothed by {smoothing}"
    ),
    "errors along the text": (
        "the mean over the {bytes} bytes of the probability that the model's first guess of the "
        "next byte is wrong, given all bytes before it, is at most {bound} under predictions "
        "smoothed by {smoothing}"
    ),
    "bits of a new document": (
        "the expected loss of a new document is at most {bound} bits per byte under predictions "
        "smoothed by {smoothing}"
    ),
    "errors in a new document": (
        "the expected share of bytes of a new document that the model's first guess misses is at "
        "most {bound} under predictions smoothed by {smoothing}"
    ),
    "token bits along the text": (
        "the sum over the {tokens} tokens of the expected loss of the next token, given all tokens "
        "before it, divided by the {bytes} bytes that they stand for, is at most {bound} bits per "
        "byte under predictions smoothed by {smoothing}"
    ),
    "token errors along the text": (
        "the mean over the {tokens} tokens, which stand for {bytes} bytes, of the probability that "
        "the model's first guess of the next token is wrong, given all tokens before it, is at "
        "most {bound} under predictions smoothed by {smoothing}"
    ),
    "token bits of a new document": (
        "the expected loss of a new document, summed over its tokens and divided by its bytes, is "
        "at most {bound} bits per byte under predictions smoothed by {smoothing}"
    ),
    "token errors in a new document": (
        "the expected share of tokens of a new document that the model's first guess misses is at "
        "most {bound} under predictions smoothed by {smoothing}"
    ),
    "n-gram": (
        "the expected loss of a new document under the {order}-gram model of the training text is "
        "at most {bound} bits per byte"
    ),
}


def language_certificate(
    found: LanguageCertification,
    *,
    coded: Path,
    text: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    """The certificate of a language model, for JSON.

    Args:
        found: from `certify_language`.
        coded: the file of the coded model.
        text: number, bytes and digest of all documents, copies included.
        training: the same of the training text, if it was given.
        made_by: code, libraries and command.

    Examples:
        >>> from pathlib import Path
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=256, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny)
        >>> unseen, seen = [bytes(range(40)), bytes(range(40, 80))], [bytes(80)]
        >>> sample = sample_of(unseen, training=seen)
        >>> found = certify_language(model, sample, context=8, window=16, training=seen)
        >>> _ = Path("model.bin").write_bytes(b"the coded model")
        >>> certificate = language_certificate(
        ...     found, coded=Path("model.bin"), text={}, training=None, made_by={}
        ... )
        >>> certificate["checkpoint"]["name"]
        'model.bin'
    """
    content = coded.read_bytes()
    statements = [statement(found, own.kind, own.bound, own.evidence) for own in found.statements]
    return seal(
        {
            "notices": [found.sample.notice()],
            "format": FORMAT,
            "attempt": found.attempt,
            "checkpoint": {
                "name": coded.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
            },
            "data": {
                "text": dict(text),
                "training": None if training is None else dict(training),
                "overlap": {"documents": found.sample.as_dict()},
                "measured": found.measured,
                **({} if found.alphabet == OF_BYTES else {"tokenizer": found.alphabet.as_dict()}),
            },
            "code": dict(made_by),
            "statements": statements,
            "joint_confidence": str(1 - len(statements) * Fraction(str(found.delta))),
        }
    )


def language_words(found: LanguageCertification) -> list[str]:
    """Each certified number as a sentence.

    Examples:
        >>> from transformers import MambaConfig, MambaForCausalLM
        >>> tiny = MambaConfig(vocab_size=256, hidden_size=8, num_hidden_layers=1, state_size=4)
        >>> model = MambaForCausalLM(tiny)
        >>> unseen, seen = [bytes(range(40)), bytes(range(40, 80))], [bytes(80)]
        >>> sample = sample_of(unseen, training=seen)
        >>> found = certify_language(model, sample, context=8, window=16, training=seen)
        >>> len(language_words(found)) == len(found.statements)
        True
    """
    return [
        str(statement(found, own.kind, own.bound, own.evidence)["words"])
        for own in found.statements
    ]


def statement(
    found: LanguageCertification, kind: str, bound: float, evidence: Mapping[str, Any]
) -> dict[str, Any]:
    """One statement in words and symbols, with its share of delta and what was counted."""
    along = kind.endswith("along the text")
    about = "these documents" if along else _of_new_documents(found.sample)
    values = {**evidence, "bound": bound}
    if along:
        values["per"] = evidence["tokens" if kind == "token errors along the text" else "bytes"]
    return {
        "kind": kind,
        "about": about,
        "examples": "documents",
        "delta": str(found.delta),
        "delta_after_attempts": str(paid(found.delta, found.attempt)),
        "bound": bound,
        "evidence": dict(evidence),
        "words": f"With probability 1 - {found.delta}, on {about}, "
        f"{SENTENCES[kind].format(**values)}.",
        "symbols": (_ALONG_SYMBOLS if along else _NEW_SYMBOLS).format(**values),
    }


def _of_new_documents(sample: Sample) -> str:
    """What a new document is drawn from, and what is assumed about that."""
    if sample.draw is not None:
        what = f"a document drawn uniformly from the {sample.draw.population} of the text"
        return f"{what} that are no copies" if sample.policy == "drop" else what
    less = " less what copies the training documents" if sample.policy == "drop" else ""
    return f"the distribution of these documents{less}, taken to be independent draws from it"

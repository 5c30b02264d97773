"""A certificate as a file: all that a program which shares no code with this one needs to check it.

The module `keelback_check` is that program.
"""

import hashlib
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from keelback.bounds._numbers import flint
from keelback.certify._certification import Certification, paid
from keelback.certify._held_out import HeldOut
from keelback.data import Split, Task

FORMAT = "keelback certificate 1"
PAC_BAYES_EXAMPLES = "examples of the PAC-Bayes bound"


def certificate_of(
    found: Certification, *, checkpoint: Path, task: Task, made_by: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """The certificate of a certification, for JSON.

    It holds what was counted: which examples the checkpoint gets wrong, the errors of each draw of
    weights, KL, and the copies found; hashes of the checkpoint and of the examples; who made it;
    and each statement in words and symbols with its share of delta. Class bounds are no part of it.

    Args:
        found: from `certify_model`.
        checkpoint: the file that was certified.
        task: where its examples come from.
        made_by: code, libraries and command.
        seed: of the prior and of all draws.

    Raises:
        InputError: python-flint is missing: the bounds are not rounded outward.

    Examples:
        >>> from pathlib import Path
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig, save_model
        >>> task = get_task("majority", seq_len=10, n_train=100, n_test=200)
        >>> model = SelectiveSSMConfig(vocab_size=2, d_model=4).build()
        >>> save_model(model, Path("mine.safetensors"))
        >>> found = certify_model(model, task, pac_bayes=False)
        >>> certificate = certificate_of(
        ...     found, checkpoint=Path("mine.safetensors"), task=task, made_by={}, seed=0
        ... )
        >>> certificate["format"], certificate["attempt"]
        ('keelback certificate 1', 1)
    """
    flint()
    samples = {f"{name} examples": own for name, own in found.unseen.items()}
    if found.pac_bayes is not None:
        samples[PAC_BAYES_EXAMPLES] = found.pac_bayes.sample
    statements = _statements(found)
    joint = 1 - len(statements) * Fraction(str(found.delta))
    certificate = {
        "notices": found.notices,
        "format": FORMAT,
        "attempt": found.attempt,
        "checkpoint": {
            "name": checkpoint.name,
            "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        },
        "data": {
            "task": task.name,
            "settings": task.settings.model_dump(mode="json"),
            "fingerprint": task.fingerprint(),
            "sha256": {what: split_digest(own.split) for what, own in samples.items()},
            "overlap": {what: own.as_dict() for what, own in samples.items()},
        },
        "code": {**made_by, "seed": seed},
        "statements": statements,
        "joint_confidence": str(joint),
    }
    return seal(certificate)


def split_digest(split: Split) -> str:
    """SHA-256 of the tokens (int32), labels and lengths (int64) of a split, little-endian."""
    digest = hashlib.sha256()
    for tensor, kind in ((split.tokens, "<i4"), (split.labels, "<i8"), (split.lengths, "<i8")):
        digest.update(tensor.numpy().astype(kind).tobytes())
    return digest.hexdigest()


def _statements(found: Certification) -> list[dict[str, Any]]:
    made = []
    for name, held in found.held_out.items():
        about, what = found.distribution(name), f"{name} examples"
        made.append(_count(found, held, about, what))
        made.append(_count(found, found.constants[name], about, what))
    if found.pac_bayes is None:
        return made
    own, about = found.pac_bayes.certificate, "the training distribution"
    if found.pac_bayes.sample.policy == "drop":
        about = found.less_copies(about)
    top = f"2 sqrt({own.examples})" if own.steps else "1"
    evidence = {
        "examples": own.examples,
        "draws": list(own.draw_errors),
        "tried": own.tried,
        "sample_error_bound": own.sample_error_bound,
        "kl": own.kl,
        "posterior": own.steps > 0,
        "prior_sigma": own.prior_sigma,
        "prior_examples": found.pac_bayes.prior_examples,
    }
    weights = "posterior" if own.steps else "prior"
    made.append(
        _statement(
            found, "gibbs", about, PAC_BAYES_EXAMPLES, own.error_bound, evidence,
            f"weights drawn anew for each prediction from the {weights} err on a new example with "
            f"probability at most {own.error_bound}",
            f"kl({own.sample_error_bound} || {own.error_bound}) >= "
            f"(KL + log({top} / (4 delta' / 60))) / {own.examples}",
        )
    )  # fmt: skip
    made.append(_count(found, found.pac_bayes.constant, about, PAC_BAYES_EXAMPLES))
    return made


def _count(found: Certification, held: HeldOut, about: str, what: str) -> dict[str, Any]:
    evidence: dict[str, Any] = {"errors": held.errors, "examples": held.examples}
    if held.label is None:
        kind, who = "held out", "the checkpoint"
        evidence["wrong"] = list(held.wrong_examples)
    else:
        kind, who = "constant", f"always answering {held.label}"
        evidence["label"] = held.label
    return _statement(
        found, kind, about, what, held.bound, evidence,
        f"{who} errs on a new example with probability at most {held.bound}",
        f"P(Bin({held.examples}, {held.bound}) <= {held.errors}) <= delta'",
    )  # fmt: skip


def _statement(
    found: Certification,
    kind: str,
    about: str,
    examples: str,
    bound: float,
    evidence: dict[str, Any],
    sentence: str,
    symbols: str,
) -> dict[str, Any]:
    return {
        "kind": kind,
        "about": about,
        "examples": examples,
        "delta": str(found.delta),
        "delta_after_attempts": str(paid(found.delta, found.attempt)),
        "bound": bound,
        "evidence": evidence,
        "words": f"With probability 1 - {found.delta}, on {about}, {sentence}.",
        "symbols": symbols,
    }


def seal(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """A certificate with the SHA-256 of its content."""
    text = json.dumps(certificate, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return {**certificate, "digest": hashlib.sha256(text.encode()).hexdigest()}

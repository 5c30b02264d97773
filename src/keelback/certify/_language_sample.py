"""The documents that a certificate of a language model counts, and why it may."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keelback.certify._overlap import Overlap, Policy, find_overlap
from keelback.certify._unseen import described
from keelback.errors import InputError
from keelback.progress import tell


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
        raise InputError(
            "drawing needs two documents or more, from a text apart from the training text"
        )
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

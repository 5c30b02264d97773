"""Errors on examples that nothing has seen, and what they certify."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from keelback.certify._measure import logits
from keelback.certify._rounding import clopper_pearson
from keelback.data import Split
from keelback.errors import JobError
from keelback.training import undecided, wrong


@dataclass(frozen=True)
class HeldOut:
    """Errors of one classifier on examples that it has not seen, and what they certify.

    Attributes:
        errors: how many examples it labels wrong.
        examples: how many there are.
        error: their ratio.
        bound: upper confidence bound on the error of a new example (Clopper and Pearson).
        label: the answer, if the classifier gives the same one always.
        wrong_examples: rows of the split that a model labels wrong.

    Examples:
        >>> found = HeldOut(errors=3, examples=100, error=0.03, bound=0.08)
        >>> found.as_dict()["bound"]
        0.08
    """

    errors: int
    examples: int
    error: float
    bound: float
    label: int | None = None
    wrong_examples: Sequence[int] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the list of rows."""
        return {name: value for name, value in vars(self).items() if name != "wrong_examples"}


def commonest_label(examples: Split) -> int:
    """The label that occurs most often; the lowest of several such."""
    return int(torch.bincount(examples.labels).argmax())


def hold_out(classifier: nn.Module | int, split: Split, delta: Fraction) -> HeldOut:
    """Count errors on a split and bound the error rate.

    Args:
        classifier: a model, or a label that is always given; fixed without looking at the split.
        split: the examples.
        delta: failure probability.

    Raises:
        JobError: the model gives NaN for some example.
    """
    rows: list[int] = []
    if isinstance(classifier, int):
        errors = int((split.labels != classifier).sum())
    else:
        found = logits(classifier, split)
        without = int(undecided(found, split.labels).sum())
        if without:
            raise JobError(
                f"the model gives NaN instead of a decision for {without} of {len(split)} "
                "examples; nothing is certified"
            )
        rows = wrong(found, split.labels).nonzero().flatten().tolist()
        errors = len(rows)
    return HeldOut(
        errors=errors,
        examples=len(split),
        error=errors / len(split),
        bound=clopper_pearson(errors, len(split), delta),
        label=classifier if isinstance(classifier, int) else None,
        wrong_examples=rows,
    )


def take(split: Split, index: Int[Tensor, " rows"]) -> Split:
    """Some examples of a split, in the order of `index`."""
    return Split(split.tokens[index], split.labels[index], split.lengths[index])

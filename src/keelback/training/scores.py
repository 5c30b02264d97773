"""What a model's logits decide, and how often that is right."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from keelback.data import Split
from keelback.errors import InputError
from keelback.models import Classifier


def correct(
    logits: Float[Tensor, "*batch_and_classes"], labels: Int[Tensor, "*batch"]
) -> Int[Tensor, "*batch"]:
    """1 where the decision is the label, else 0; a binary logit decides by its sign.

    Examples:
        >>> correct(torch.tensor([2.0, -1.0]), torch.tensor([1, 1]))
        tensor([1, 0])
    """
    decision = logits > 0 if logits.ndim == labels.ndim else logits.argmax(-1)
    return (decision == labels).long()


def wrong(
    logits: Float[Tensor, "*batch_and_classes"], labels: Int[Tensor, "*batch"]
) -> Bool[Tensor, "*batch"]:
    """Which examples are labelled wrong: those that are not `correct`, or have a logit of NaN.

    Examples:
        >>> wrong(torch.tensor([2.0, -1.0]), torch.tensor([1, 1]))
        tensor([False,  True])
    """
    return (correct(logits, labels) == 0) | undecided(logits, labels)


def undecided(
    logits: Float[Tensor, "*batch_and_classes"], labels: Int[Tensor, "*batch"]
) -> Bool[Tensor, "*batch"]:
    """For which examples a logit is not a number, so that nothing is decided.

    Examples:
        >>> undecided(torch.tensor([2.0, float("nan")]), torch.tensor([1, 1]))
        tensor([False,  True])
    """
    return logits.isnan() if logits.ndim == labels.ndim else logits.isnan().any(-1)


def error_rate(logits: Float[Tensor, "*batch_and_classes"], labels: Int[Tensor, "*batch"]) -> float:
    """The share of examples that are labelled wrong.

    Examples:
        >>> error_rate(torch.tensor([2.0, -1.0]), torch.tensor([1, 1]))
        0.5
    """
    return float(wrong(logits, labels).double().mean())


def accuracy(model: Classifier, split: Split, batch_size: int = 512) -> float:
    """The share of the split's examples that the model, in evaluation mode, labels right.

    Raises:
        InputError: the logits are not one for each example, or one for each of its classes.

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> test = get_task("majority", seq_len=10, n_test=50).split("test")
        >>> 0 <= accuracy(SelectiveSSMConfig(vocab_size=2).build(), test) <= 1
        True
    """
    return score(model, split, batch_size).accuracy


class Score(NamedTuple):
    """How a model did on a split; `undecided` examples have a logit that is not a number.

    Examples:
        >>> score = Score(0.9, undecided=2)
        >>> score.accuracy, score.undecided
        (0.9, 2)
    """

    accuracy: float
    undecided: int


@torch.no_grad()
def score(model: Classifier, split: Split, batch_size: int = 512) -> Score:
    """`accuracy`, and for how many examples the model gives no decision.

    Such examples count as if the logit were below zero, or the largest.

    Raises:
        InputError: as for `accuracy`.

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> test = get_task("majority", seq_len=10, n_test=50).split("test")
        >>> score(SelectiveSSMConfig(vocab_size=2).build(), test).undecided
        0
    """
    hits = without = 0
    with _evaluating(model):
        for start in range(0, len(split), batch_size):
            batch = slice(start, start + batch_size)
            logits, labels = model(split.tokens[batch]), split.labels[batch]
            if logits.shape[:1] != labels.shape or logits.ndim > 2 or logits.shape[1:] == (1,):
                raise InputError(
                    f"the model gives logits {tuple(logits.shape)} for {len(labels)} examples; one "
                    "for each is needed or, for more than two classes, one for each class"
                )
            hits += int(correct(logits, labels).sum())
            without += int(undecided(logits, labels).sum())
    return Score(hits / len(split), without)


@contextlib.contextmanager
def _evaluating(model: Classifier) -> Iterator[None]:
    """Within the block the model is in evaluation mode: without dropout, say."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

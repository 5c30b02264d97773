"""What a model's logits decide, and how often that is right."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from keelback.data import Split
from keelback.models import Classifier


def correct(
    logits: Float[Tensor, "*batch_and_classes"], labels: Int[Tensor, "*batch"]
) -> Int[Tensor, "*batch"]:
    """1 where the decision is the label, else 0; a binary logit decides by its sign."""
    decision = logits > 0 if logits.ndim == labels.ndim else logits.argmax(-1)
    return (decision == labels).long()


def wrong(
    logits: Float[Tensor, "*batch_and_classes"], labels: Int[Tensor, "*batch"]
) -> Bool[Tensor, "*batch"]:
    """Which examples are labelled wrong: those that are not `correct`."""
    return correct(logits, labels) == 0


def error_rate(logits: Float[Tensor, "*batch_and_classes"], labels: Int[Tensor, "*batch"]) -> float:
    """The share of examples that are labelled wrong."""
    return float(wrong(logits, labels).double().mean())


@torch.no_grad()
def accuracy(model: Classifier, split: Split, batch_size: int = 512) -> float:
    """The share of the split's examples that the model labels right."""
    hits = 0
    for start in range(0, len(split), batch_size):
        batch = slice(start, start + batch_size)
        hits += int(correct(model(split.tokens[batch]), split.labels[batch]).sum())
    return hits / len(split)

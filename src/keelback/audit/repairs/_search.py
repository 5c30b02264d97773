"""Finding the values of an edit: shared by all layers first, then layer by layer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.audit.repairs._edits import EditableLayer, EditKind

_ENOUGH_RISES = 2
_FIRST_STEP, _LAST_STEP = 1.0, 0.25
_GRADIENT_RATE = 0.25

Score = Callable[[EditKind, Float[Tensor, " layers"]], float]
"""The loss on the calibration text with an edit in place; infinite where it overflows."""


@dataclass(frozen=True)
class Found:
    """An edit, its value for each layer, and the loss on the calibration text with it."""

    kind: EditKind
    values: Float[Tensor, " layers"]
    score: float


def shared_search(
    kind: EditKind, layers: int, train_length: int, target_length: int, score: Score
) -> Found:
    """The best single value for all layers; each row of trials ends after two rises."""
    best: Found | None = None
    for row in kind.shared_values(train_length, target_length):
        lowest, rises = float("inf"), 0
        for value in row:
            values = torch.full((layers,), value)
            found = Found(kind, values, score(kind, values))
            best = found if best is None or found.score < best.score else best
            rises = 0 if found.score < lowest else rises + 1
            lowest = min(lowest, found.score)
            if rises == _ENOUGH_RISES:
                break
    assert best is not None
    return best


def coordinate_search(start: Found, score: Score, evaluations: int) -> Found:
    """Gradient-free: each layer up or down by a step that halves when a round finds nothing."""
    best, step = start, _FIRST_STEP
    while step >= _LAST_STEP and evaluations > 0:
        improved = False
        for layer in range(len(best.values)):
            for sign in (1, -1):
                if evaluations == 0:
                    break
                values = best.values.clone()
                values[layer] += sign * step
                evaluations -= 1
                found = Found(best.kind, values, score(best.kind, values))
                if found.score < best.score:
                    best, improved = found, True
                    break
        if not improved:
            step /= 2
    return best


def gradient_search(
    start: Found,
    score: Score,
    differentiable: Callable[[EditKind, Float[Tensor, " layers"], int], Tensor],
    evaluations: int,
) -> Found:
    """Adam on the values, the loss of one calibration sequence a step; the best seen is kept.

    `differentiable` gives the loss of the `i`-th step's sequence with gradients to the values.
    """
    values = start.values.clone().requires_grad_()
    optimiser = torch.optim.Adam([values], lr=_GRADIENT_RATE)
    best = start
    for i in range(evaluations):
        optimiser.zero_grad()
        with torch.enable_grad():
            loss = differentiable(start.kind, values, i)
        if not bool(torch.isfinite(loss)):
            break
        loss.backward()
        optimiser.step()
        tried = values.detach().clone()
        found = Found(start.kind, tried, score(start.kind, tried))
        best = found if found.score < best.score else best
    return best


def able(kind: EditKind, layers: Sequence[EditableLayer]) -> bool:
    """Whether any layer can take this kind of edit."""
    return any(kind.edit(layer, torch.tensor(0.0)) for layer in layers)

"""The published checkpoint on IMDb, held against our start, optimiser and number of steps.

Tokens that no review has move by weight decay alone, along a path that no data, order or rounding
of sums disturbs: where they stand tells the initial values, Adam's settings, the learning rate in
every step and the number of steps.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from keelback.models import SelectiveClassifier, load_model
from keelback.training import Recipe
from keelback.training._optimiser import ReplicaAdam

STEPS = 30 * 98
"""Thirty epochs of 25,000 reviews in batches of 256."""

UNUSED = torch.cat([torch.arange(1, 100), torch.arange(104, 999)])
"""BERT's [unused0] to [unused993], which are in no text."""


def after_weight_decay_alone(start: Tensor, steps: int) -> Tensor:
    recipe = Recipe()
    parameters = start.flatten().unsqueeze(0).clone()
    adam = ReplicaAdam(parameters, recipe.weight_decay)
    rate, alive = torch.tensor([recipe.learning_rate]), torch.ones(1, dtype=torch.bool)
    for _ in range(steps):
        adam.step(torch.zeros_like(parameters), rate, alive)
    return parameters[0]


@pytest.mark.shared
def test_the_published_model_was_trained_from_our_start_by_our_recipe_for_30_epochs(
    shared: Path,
) -> None:
    model = load_model(shared / "reference/checkpoints/imdb_T500_seed1.pth")
    assert isinstance(model, SelectiveClassifier)
    published = model.embedding.detach()[UNUSED].flatten()
    begun = model.config.build(torch.Generator().manual_seed(1))
    start = begun.embedding.detach()[UNUSED]
    normal = published.abs() > 1e-30
    assert normal.sum() > 20
    differences = {
        steps: ((after_weight_decay_alone(start, steps) - published) / published)[normal].abs()
        for steps in (STEPS - 1, STEPS, STEPS + 1)
    }
    assert differences[STEPS].max() < 1e-3
    assert differences[STEPS - 1].median() > 1e-2
    assert differences[STEPS + 1].median() > 1e-2

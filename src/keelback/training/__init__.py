"""Training: the loop, the recipe, the stability monitor, divergence as a result."""

from keelback.training._examples import epoch_order
from keelback.training._state import TrainingResult
from keelback.training.checkpoint import Checkpoint
from keelback.training.divergence import Divergence
from keelback.training.loop import train
from keelback.training.monitor import StabilityMonitor
from keelback.training.place import AcceleratePlace, Place
from keelback.training.recipe import Recipe
from keelback.training.recompute import recompute_layers
from keelback.training.scores import (
    Score,
    accuracy,
    correct,
    error_rate,
    score,
    undecided,
    wrong,
)

__all__ = [
    "AcceleratePlace",
    "Checkpoint",
    "Divergence",
    "Place",
    "Recipe",
    "Score",
    "StabilityMonitor",
    "TrainingResult",
    "accuracy",
    "correct",
    "epoch_order",
    "error_rate",
    "recompute_layers",
    "score",
    "train",
    "undecided",
    "wrong",
]

"""Training: the loop, the recipe, the stability monitor, divergence as a result."""

from keelback.training._examples import epoch_order
from keelback.training._state import TrainingResult
from keelback.training.checkpoint import Checkpoint
from keelback.training.divergence import Divergence
from keelback.training.loop import Score, accuracy, score, train
from keelback.training.monitor import StabilityMonitor
from keelback.training.place import AcceleratePlace, Place
from keelback.training.recipe import Recipe, correct
from keelback.training.recompute import recompute_layers

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
    "recompute_layers",
    "score",
    "train",
]

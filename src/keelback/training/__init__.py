"""Training: the loop, the recipe, the stability monitor, divergence as a result."""

from keelback.training.divergence import Divergence
from keelback.training.loop import TrainingResult, accuracy, train
from keelback.training.monitor import StabilityMonitor
from keelback.training.recipe import Recipe, correct

__all__ = [
    "Divergence",
    "Recipe",
    "StabilityMonitor",
    "TrainingResult",
    "accuracy",
    "correct",
    "train",
]

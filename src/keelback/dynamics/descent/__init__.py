"""Gradient descent on many gated SSMs as one batch: what is trained, how, and what came of it."""

from keelback.dynamics.descent.history import GatedHistory, Status, measured_epochs
from keelback.dynamics.descent.train import train_gated
from keelback.dynamics.descent.training import (
    GatedTraining,
    OptimizerName,
    ScheduleName,
    Source,
    Symmetry,
)

__all__ = [
    "GatedHistory",
    "GatedTraining",
    "OptimizerName",
    "ScheduleName",
    "Source",
    "Status",
    "Symmetry",
    "measured_epochs",
    "train_gated",
]

"""How a gated SSM learns: what its gate aligns with, what the theorems predict, fitted rates."""

from keelback.dynamics.alignment import (
    Alignment,
    GateOpenness,
    cosines,
    gate_openness,
    projections,
)
from keelback.dynamics.bayes import BayesError, bayes_error
from keelback.dynamics.exponents import (
    Interval,
    PowerLaw,
    fit_power_law,
    median_with_interval,
    power_law_through,
    share_with_interval,
)
from keelback.dynamics.theory import Condition, Prediction, conditions, predicted

__all__ = [
    "Alignment",
    "BayesError",
    "Condition",
    "GateOpenness",
    "Interval",
    "PowerLaw",
    "Prediction",
    "bayes_error",
    "conditions",
    "cosines",
    "fit_power_law",
    "gate_openness",
    "median_with_interval",
    "power_law_through",
    "predicted",
    "projections",
    "share_with_interval",
]

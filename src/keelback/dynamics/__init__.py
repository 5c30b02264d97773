"""How a gated SSM learns (arXiv 2602.12499): its data, models and training, theory and rates."""

from keelback.dynamics.alignment import (
    Alignment,
    GateOpenness,
    cosines,
    gate_openness,
    projections,
)
from keelback.dynamics.bayes import BayesError, bayes_error
from keelback.dynamics.descent import GatedHistory, GatedTraining, train_gated
from keelback.dynamics.exponents import (
    Interval,
    PowerLaw,
    fit_power_law,
    median_with_interval,
    power_law_through,
    share_with_interval,
)
from keelback.dynamics.gated import GatedSSM
from keelback.dynamics.noise import CorrelatedNoise, GaussianNoise, Noise, StudentNoise
from keelback.dynamics.patterns import (
    Locality,
    MajorityVoting,
    Pattern,
    PatternBatch,
    rotate,
    sample_patterns,
)
from keelback.dynamics.theory import Condition, Prediction, conditions, predicted
from keelback.dynamics.two_modes import TwoModes, active_share, best_two_mode_accuracy

__all__ = [
    "Alignment",
    "BayesError",
    "Condition",
    "CorrelatedNoise",
    "GateOpenness",
    "GatedHistory",
    "GatedSSM",
    "GatedTraining",
    "GaussianNoise",
    "Interval",
    "Locality",
    "MajorityVoting",
    "Noise",
    "Pattern",
    "PatternBatch",
    "PowerLaw",
    "Prediction",
    "StudentNoise",
    "TwoModes",
    "active_share",
    "bayes_error",
    "best_two_mode_accuracy",
    "conditions",
    "cosines",
    "fit_power_law",
    "gate_openness",
    "median_with_interval",
    "power_law_through",
    "predicted",
    "projections",
    "rotate",
    "sample_patterns",
    "share_with_interval",
    "train_gated",
]

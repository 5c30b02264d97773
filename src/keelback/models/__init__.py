"""Models: the selective SSM and the classifiers built on it, their initial values and weights."""

from keelback.models._registry import MODELS, Classifier, ModelConfig, model_config
from keelback.models._state_matrix import FreeStateMatrix, StableStateMatrix
from keelback.models.constants import class_constants
from keelback.models.selective_ssm import (
    LastPositionHead,
    SelectiveClassifier,
    SelectiveSSM,
    SelectiveSSMConfig,
)
from keelback.models.weights import WEIGHTS_FILE, load_model, save_model, save_weights

__all__ = [
    "MODELS",
    "WEIGHTS_FILE",
    "Classifier",
    "FreeStateMatrix",
    "LastPositionHead",
    "ModelConfig",
    "SelectiveClassifier",
    "SelectiveSSM",
    "SelectiveSSMConfig",
    "StableStateMatrix",
    "class_constants",
    "load_model",
    "model_config",
    "save_model",
    "save_weights",
]

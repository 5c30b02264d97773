"""Models: the selective SSM and the classifiers built on it, their initial values and weights."""

from keelback.models._registry import (
    MODELS,
    Classifier,
    ModelConfig,
    model_config,
    register_model,
    require_room,
)
from keelback.models._state_matrix import FreeStateMatrix, StableStateMatrix
from keelback.models.attention import SoftmaxAttention, SoftmaxAttentionConfig
from keelback.models.constants import class_constants
from keelback.models.deeper import (
    MambaBlocks,
    MambaBlocksConfig,
    SelectiveStack,
    SelectiveStackConfig,
)
from keelback.models.linear_attention import LinearAttention, LinearAttentionConfig
from keelback.models.lti import DiagonalLTI, DiagonalLTIConfig
from keelback.models.mamba_stack import (
    MambaBackbone,
    MambaBlock,
    MambaClassifier,
    MambaClassifierConfig,
    MambaLanguageModel,
    MambaLanguageModelConfig,
)
from keelback.models.matching import BASELINES, matched_baseline, parameter_count
from keelback.models.other_states import (
    ComplexSSM,
    ComplexSSMConfig,
    DenseSSM,
    DenseSSMConfig,
)
from keelback.models.rnn import VanillaRNN, VanillaRNNConfig
from keelback.models.selective_ssm import (
    LastPositionHead,
    SelectiveClassifier,
    SelectiveSSM,
    SelectiveSSMConfig,
)
from keelback.models.sequence_classifier import (
    SequenceClassifier,
    SequenceClassifierConfig,
    SequenceMixer,
)
from keelback.models.sharpened import log_gate_sensitivity, scale_to_sensitivity
from keelback.models.weights import WEIGHTS_FILE, load_model, save_model, save_weights

__all__ = [
    "BASELINES",
    "MODELS",
    "WEIGHTS_FILE",
    "Classifier",
    "ComplexSSM",
    "ComplexSSMConfig",
    "DenseSSM",
    "DenseSSMConfig",
    "DiagonalLTI",
    "DiagonalLTIConfig",
    "FreeStateMatrix",
    "LastPositionHead",
    "LinearAttention",
    "LinearAttentionConfig",
    "MambaBackbone",
    "MambaBlock",
    "MambaBlocks",
    "MambaBlocksConfig",
    "MambaClassifier",
    "MambaClassifierConfig",
    "MambaLanguageModel",
    "MambaLanguageModelConfig",
    "ModelConfig",
    "SelectiveClassifier",
    "SelectiveSSM",
    "SelectiveSSMConfig",
    "SelectiveStack",
    "SelectiveStackConfig",
    "SequenceClassifier",
    "SequenceClassifierConfig",
    "SequenceMixer",
    "SoftmaxAttention",
    "SoftmaxAttentionConfig",
    "StableStateMatrix",
    "VanillaRNN",
    "VanillaRNNConfig",
    "class_constants",
    "load_model",
    "log_gate_sensitivity",
    "matched_baseline",
    "model_config",
    "parameter_count",
    "register_model",
    "require_room",
    "save_model",
    "save_weights",
    "scale_to_sensitivity",
]

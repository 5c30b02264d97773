"""Baselines of the size of a selective SSM."""

import bisect

import torch
from torch import nn

from keelback.errors import InputError
from keelback.models.attention import SoftmaxAttentionConfig
from keelback.models.linear_attention import LinearAttentionConfig
from keelback.models.lti import DiagonalLTIConfig
from keelback.models.rnn import VanillaRNNConfig
from keelback.models.selective_ssm import SelectiveSSMConfig
from keelback.models.sequence_classifier import SequenceClassifierConfig

BASELINES: dict[str, tuple[type[SequenceClassifierConfig], str]] = {
    "softmax-attention": (SoftmaxAttentionConfig, "d_head"),
    "linear-attention": (LinearAttentionConfig, "d_head"),
    "lti-ssm": (DiagonalLTIConfig, "d_state"),
    "rnn": (VanillaRNNConfig, "d_hidden"),
}
"""By kind: the configuration, and the width that is free to match a number of parameters."""


def parameter_count(model: nn.Module) -> int:
    """How many numbers a classifier learns besides its embedding.

    Examples:
        >>> parameter_count(VanillaRNNConfig(vocab_size=2, d_model=4, d_hidden=5).build())
        55
    """
    return sum(p.numel() for name, p in model.named_parameters() if "embedding" not in name)


def matched_baseline(kind: str, like: SelectiveSSMConfig) -> SequenceClassifierConfig:
    """The baseline on the same embedding whose number of parameters is nearest to that of `like`.

    Raises:
        InputError: there is no baseline of this kind.

    Examples:
        >>> baseline = matched_baseline("rnn", like=SelectiveSSMConfig(vocab_size=2))
        >>> baseline.kind
        'rnn'
    """
    if kind not in BASELINES:
        raise InputError(f"there is no baseline {kind!r}; there are {', '.join(BASELINES)}")
    config, width = BASELINES[kind]
    shared = {"vocab_size": like.vocab_size, "n_classes": like.n_classes, "d_model": like.d_model}

    def sized(n: int) -> SequenceClassifierConfig:
        return config.model_validate({**shared, width: n})

    def count(n: int) -> int:
        return parameter_count(sized(n).build())

    with torch.device("meta"):
        target = parameter_count(like.build())
        enough = 1 + bisect.bisect_left(range(1, target), target, key=count)
        below = max(enough - 1, 1)
        return sized(enough if count(enough) - target <= target - count(below) else below)

"""Which models there are, by the `kind` that names them in a configuration."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from keelback.errors import InputError, describe, nearest
from keelback.memory import require_memory
from keelback.models.attention import SoftmaxAttentionConfig
from keelback.models.linear_attention import LinearAttentionConfig
from keelback.models.lti import DiagonalLTIConfig
from keelback.models.mamba_stack import MambaClassifierConfig, MambaLanguageModelConfig
from keelback.models.rnn import VanillaRNNConfig
from keelback.models.selective_ssm import SelectiveSSMConfig


@runtime_checkable
class ModelConfig(Protocol):
    """The fields that every classifier's configuration, a frozen pydantic model, has."""

    kind: Any
    vocab_size: int
    n_classes: int

    def build(self, generator: torch.Generator | None = None) -> nn.Module:
        """A freshly initialised classifier of token sequences."""
        ...


@runtime_checkable
class Classifier(Protocol):
    """What training and evaluation ask of a model: logits from tokens."""

    def __call__(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch *classes"]:
        """`(batch,)` for two classes, `(batch, n_classes)` otherwise."""
        ...


MODELS: dict[str, type[BaseModel]] = {
    "selective-ssm": SelectiveSSMConfig,
    "softmax-attention": SoftmaxAttentionConfig,
    "linear-attention": LinearAttentionConfig,
    "lti-ssm": DiagonalLTIConfig,
    "rnn": VanillaRNNConfig,
    "mamba-stack": MambaClassifierConfig,
    "mamba-lm": MambaLanguageModelConfig,
}
"""Configurations by kind; a new model adds its configuration class here."""


def require_room(config: ModelConfig, copies: int = 1) -> None:
    """Refuse a model whose weights would not fit into memory; nothing is allocated to find out.

    `copies` is how often the weights are there at once: five times in training, with their
    gradients, Adam's two moments and the values that come back at the end.

    Raises:
        InputError: they would not, or a size is too large for a tensor.
    """
    try:
        with torch.device("meta"):
            weights = sum(x.numel() for x in config.build().parameters())
    except (RuntimeError, TypeError, OverflowError) as error:
        if "meta tensors" in str(error):
            return  # Its initial values are read while it is built, which a shape alone lacks.
        reason = str(error).splitlines()[0]
        raise InputError(f"model {config.kind} cannot be built: {reason}") from None
    what = f"the {weights:.3g} weights of the model"
    require_memory(4.0 * copies * weights, what if copies == 1 else f"{copies} copies of {what}")


def model_config(fields: Mapping[str, Any]) -> Any:
    """The configuration that `fields` describe; `fields["kind"]` chooses the class.

    Raises:
        InputError: an unknown kind, or a field that is unknown or has the wrong type or value.
    """
    kind = fields.get("kind")
    if kind not in MODELS:
        known = sorted(MODELS)
        raise InputError(
            f"unknown model {kind!r}; there are {', '.join(known)}{nearest(str(kind), known)}"
        )
    try:
        return MODELS[kind].model_validate(dict(fields))
    except ValidationError as error:
        raise InputError(f"model {kind}: {describe(error, MODELS[kind])}") from None

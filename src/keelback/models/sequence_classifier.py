"""A classifier of token sequences around any map from sequences to sequences."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from keelback.errors import InputError
from keelback.models._embedding import look_up
from keelback.models.selective_ssm import LastPositionHead
from keelback.plugins import check_output
from keelback.registry import is_from_outside


class SequenceMixer(nn.Module, ABC):
    """A causal map of sequences: the output at a position depends on the inputs up to it.

    Examples:
        >>> isinstance(VanillaRNN(d_model=16, d_hidden=5), SequenceMixer)
        True
    """

    d_output: int

    def __init_subclass__(cls, **options: Any) -> None:
        """The output of a mixer from outside is checked, wherever it is used."""
        super().__init_subclass__(**options)
        if is_from_outside(cls):
            check_output(cls, "forward", _check_sequence)
            check_output(cls, "last", _check_sequence)

    @abstractmethod
    def forward(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_output"]:
        """Outputs at every position."""

    def last(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch 1 d_output"]:
        """The output at the last position alone, which may cost less than all of them."""
        y: Tensor = self(u)  # By the module's call, so that hooks see it.
        return y[:, -1:]


def _check_sequence(mixer: SequenceMixer, y: object, u: Tensor) -> Tensor:
    """The mixer's output, if it has its width and one position, or those of the input."""
    if not isinstance(y, Tensor):
        raise InputError(f"{type(mixer).__name__} gives a {type(y).__name__}, not a tensor")
    wanted = (u.shape[0], u.shape[1], mixer.d_output)
    if not y.is_floating_point() or tuple(y.shape) not in (wanted, (wanted[0], 1, wanted[2])):
        raise InputError(
            f"{type(mixer).__name__} gives {str(y.dtype).removeprefix('torch.')} of shape "
            f"{tuple(y.shape)} for an input {tuple(u.shape)}; it should be floating point of "
            f"shape {wanted}, or of one position from `last`"
        )
    return y


class SequenceClassifierConfig(BaseModel):
    """What the configurations of all classifiers around a `SequenceMixer` have in common.

    Examples:
        >>> config = VanillaRNNConfig(vocab_size=10, n_classes=3)
        >>> isinstance(config, SequenceClassifierConfig), config.d_model
        (True, 4)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(gt=0)
    n_classes: int = Field(default=2, ge=2)
    d_model: int = Field(default=4, gt=0)

    def mixer(self, generator: torch.Generator | None = None) -> SequenceMixer:
        """A freshly initialised mixer."""
        raise NotImplementedError

    def build(self, generator: torch.Generator | None = None) -> "SequenceClassifier":
        """A freshly initialised classifier."""
        return SequenceClassifier(self, generator)


class SequenceClassifier(nn.Module):
    """Embedding, a mixer in the place of the selective SSM, and a head on the last position.

    Embedding and head are those of `SelectiveClassifier`, with the same standard normal initial
    values, so that two classifiers differ in what lies between.

    Examples:
        >>> model = VanillaRNNConfig(vocab_size=10, n_classes=3).build()
        >>> isinstance(model, SequenceClassifier)
        True
        >>> model(torch.zeros(2, 7, dtype=torch.int64)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, config: SequenceClassifierConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        embedding = torch.randn(config.vocab_size, config.d_model, generator=generator)
        self.embedding = nn.Parameter(embedding)
        self.mixer = config.mixer(generator)
        self.head = LastPositionHead(self.mixer.d_output, config.n_classes, generator)

    def embed(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length d_model"]:
        """The token vectors u_t."""
        return look_up(tokens, self.embedding)

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch *classes"]:
        """Logits, `(batch,)` for two classes and `(batch, n_classes)` otherwise."""
        return self.head(self.mixer.last(self.embed(tokens)))

    def trace(self, tokens: Int[Tensor, "batch length"]) -> Mapping[str, Tensor]:
        """Named tensors of a forward pass in the order in which they arise."""
        u = self.embed(tokens)
        y = self.mixer.last(u)
        return {"u": u, "y": y, "logits": self.head(y)}


def uniform_by_fan_in(
    *shape: int, fan_in: int, generator: torch.Generator | None = None
) -> nn.Parameter:
    """A parameter with entries uniform on +-1/sqrt(fan_in), as PyTorch's linear layers start."""
    values = torch.rand(*shape, generator=generator)
    return nn.Parameter((2 * values - 1) / fan_in**0.5)

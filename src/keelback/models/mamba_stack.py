"""A stack of Mamba blocks, as a classifier and as a language model."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from keelback.conv import causal_conv1d
from keelback.models.selective_ssm import LastPositionHead
from keelback.models.sequence_classifier import uniform_by_fan_in
from keelback.scan import mamba_inner

STEP_RANGE = (1e-3, 1e-1)
"""Step sizes start log-uniform on this range."""

EMBEDDING_SCALE = 0.02

NORM_EPS = 1e-5
"""What a norm adds to the mean square."""


class MambaStackConfig(BaseModel):
    """The widths of a stack of Mamba blocks, and what it is used for.

    `d_inner` is `expand * d_model` and the rank of the step size's projection is
    `d_model / 16`, rounded up, as in Mamba.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(gt=0)
    d_model: int = Field(default=64, gt=0)
    n_layers: int = Field(default=4, gt=0)
    d_state: int = Field(default=16, gt=0)
    d_conv: int = Field(default=4, gt=0)
    expand: int = Field(default=2, gt=0)

    @property
    def d_inner(self) -> int:
        """Channels of the scan in each block."""
        return self.expand * self.d_model

    @property
    def dt_rank(self) -> int:
        """Rank of the projection that gives the step sizes."""
        return math.ceil(self.d_model / 16)


class MambaBlock(nn.Module):
    """Projection, causal depthwise convolution, selective scan, gate, projection back.

    Source: Gu and Dao 2023 (arXiv 2312.00752), Figure 3; the step sizes, A and D start as there.

    Examples:
        >>> block = MambaBlock(MambaLanguageModelConfig(vocab_size=256, d_model=16))
        >>> block(torch.randn(1, 20, 16)).shape
        torch.Size([1, 20, 16])
    """

    def __init__(self, config: MambaStackConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        d_model, d_inner, d_state = config.d_model, config.d_inner, config.d_state
        self.dt_rank, self.d_state, self.d_conv = config.dt_rank, d_state, config.d_conv

        def matrix(rows: int, columns: int) -> nn.Parameter:
            return uniform_by_fan_in(rows, columns, fan_in=columns, generator=generator)

        self.W_in = matrix(2 * d_inner, d_model)
        self.conv_weight = uniform_by_fan_in(
            d_inner, config.d_conv, fan_in=config.d_conv, generator=generator
        )
        self.conv_bias = nn.Parameter(torch.zeros(d_inner))
        self.W_x = matrix(config.dt_rank + 2 * d_state, d_inner)
        self.W_delta = matrix(d_inner, config.dt_rank)
        self.delta_bias = nn.Parameter(_step_bias(d_inner, generator))
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1)).repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.W_out = matrix(d_model, d_inner)
        with torch.no_grad():
            self.W_out.div_(config.n_layers**0.5)

    @property
    def A(self) -> Float[Tensor, "d_inner d_state"]:
        """The diagonal state matrices, all entries negative."""
        return -torch.exp(self.A_log)

    def forward(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        """The block's update of the residual stream."""
        x, z = self._branches(u)
        y = mamba_inner(
            x,
            z,
            self.conv_weight,
            self.conv_bias,
            self.W_x,
            self.W_delta,
            self.A,
            self.D,
            self.delta_bias,
        )
        return y @ self.W_out.mT

    def step_sizes(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_inner"]:
        """The step size delta of every position and channel: how far the state moves there."""
        x = causal_conv1d(self._branches(u)[0], self.conv_weight, self.conv_bias, "silu")
        assert isinstance(x, Tensor)
        return F.softplus(x @ self.W_x[: self.dt_rank].mT @ self.W_delta.mT + self.delta_bias)

    def _branches(self, u: Tensor) -> tuple[Tensor, ...]:
        """What the convolution takes in, and the gate."""
        return (u @ self.W_in.mT).chunk(2, dim=-1)


class RMSNorm(nn.Module):
    """`x / rms(x) * weight` (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Vectors of root mean square 1, scaled."""
        return F.rms_norm(x, x.shape[-1:], eps=NORM_EPS) * self.weight


class MambaBackbone(nn.Module):
    """Embedding, `n_layers` blocks with a norm before and a residual around each, a last norm.

    Examples:
        >>> backbone = MambaBackbone(MambaLanguageModelConfig(vocab_size=256, d_model=16))
        >>> backbone(torch.zeros(1, 20, dtype=torch.int64)).shape
        torch.Size([1, 20, 16])
    """

    def __init__(self, config: MambaStackConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        embedding = torch.randn(config.vocab_size, config.d_model, generator=generator)
        self.embedding = nn.Parameter(EMBEDDING_SCALE * embedding)
        self.norms = nn.ModuleList(RMSNorm(config.d_model) for _ in range(config.n_layers))
        self.blocks = nn.ModuleList(MambaBlock(config, generator) for _ in range(config.n_layers))
        self.last_norm = RMSNorm(config.d_model)

    def layers(self, tokens: Int[Tensor, "batch length"]) -> Mapping[str, Tensor]:
        """The residual stream by name: the embedded tokens, after each block, after the norm."""
        u = F.embedding(tokens, self.embedding)
        stream = {"u": u}
        for i, (norm, block) in enumerate(zip(self.norms, self.blocks, strict=True), start=1):
            u = u + block(norm(u))
            stream[f"block {i}"] = u
        return stream | {"y": self.last_norm(u)}

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length d_model"]:
        """A vector for each position that depends on the tokens up to it."""
        return self.layers(tokens)["y"]


class MambaClassifierConfig(MambaStackConfig):
    """A stack of Mamba blocks whose last position is classified.

    Examples:
        >>> model = MambaClassifierConfig(vocab_size=16, n_classes=10, d_model=16).build()
        >>> model(torch.zeros(2, 20, dtype=torch.int64)).shape
        torch.Size([2, 10])
    """

    kind: Literal["mamba-stack"] = "mamba-stack"
    n_classes: int = Field(default=2, ge=2)

    def build(self, generator: torch.Generator | None = None) -> "MambaClassifier":
        """A freshly initialised classifier."""
        return MambaClassifier(self, generator)


class MambaClassifier(nn.Module):
    """A Mamba backbone and the same head as the other classifiers have.

    Examples:
        >>> model = MambaClassifier(MambaClassifierConfig(vocab_size=16, n_classes=10, d_model=16))
        >>> model(torch.zeros(2, 20, dtype=torch.int64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, config: MambaClassifierConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = MambaBackbone(config, generator)
        self.head = LastPositionHead(config.d_model, config.n_classes, generator)
        with torch.no_grad():
            self.head.weight.div_(config.d_model**0.5)

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch *classes"]:
        """Logits, `(batch,)` for two classes and `(batch, n_classes)` otherwise."""
        return self.head(self.backbone(tokens))

    def trace(self, tokens: Int[Tensor, "batch length"]) -> Mapping[str, Tensor]:
        """Named tensors of a forward pass in the order in which they arise."""
        stream = self.backbone.layers(tokens)
        return {**stream, "logits": self.head(stream["y"])}


class MambaLanguageModelConfig(MambaStackConfig):
    """A stack of Mamba blocks that predicts the next token.

    Examples:
        >>> model = MambaLanguageModelConfig(vocab_size=256, d_model=16, n_layers=2).build()
        >>> model(torch.zeros(1, 20, dtype=torch.int64)).shape
        torch.Size([1, 20, 256])
    """

    kind: Literal["mamba-lm"] = "mamba-lm"

    def build(self, generator: torch.Generator | None = None) -> "MambaLanguageModel":
        """A freshly initialised language model."""
        return MambaLanguageModel(self, generator)


class MambaLanguageModel(nn.Module):
    """A Mamba backbone whose embedding is also its output map.

    Examples:
        >>> model = MambaLanguageModel(MambaLanguageModelConfig(vocab_size=256, d_model=16))
        >>> model(torch.zeros(1, 20, dtype=torch.int64)).shape
        torch.Size([1, 20, 256])
    """

    def __init__(
        self, config: MambaLanguageModelConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = MambaBackbone(config, generator)

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocab"]:
        """Logits of the token after each position."""
        return self.backbone(tokens) @ self.backbone.embedding.mT


def _step_bias(d_inner: int, generator: torch.Generator | None) -> Float[Tensor, " {d_inner}"]:
    """Biases whose softplus is log-uniform on `STEP_RANGE`."""
    low, high = map(math.log, STEP_RANGE)
    steps = torch.exp(low + (high - low) * torch.rand(d_inner, generator=generator))
    return steps + torch.log(-torch.expm1(-steps))

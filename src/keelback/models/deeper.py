"""Deeper classifiers without norms or residuals, for the bounds that speak of them."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from keelback.models.mamba_stack import MambaBlock, MambaStackConfig
from keelback.models.selective_ssm import SelectiveSSM
from keelback.models.sequence_classifier import SequenceClassifierConfig, SequenceMixer


class SelectiveStack(SequenceMixer):
    """Selective SSMs on top of each other, each reading the outputs of the one below.

    Source: docs/studies/bounds.md, Corollary 8.

    Examples:
        >>> SelectiveStack(d_model=6, d_state=4, n_layers=2)(torch.randn(2, 9, 6)).shape
        torch.Size([2, 9, 6])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int,
        n_layers: int,
        *,
        spectral_abscissa: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.d_output = d_model
        self.layers = nn.ModuleList(
            SelectiveSSM(d_model, d_state, spectral_abscissa=spectral_abscissa, generator=generator)
            for _ in range(n_layers)
        )

    def forward(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        """Outputs of the top layer at every position."""
        for layer in self.layers:
            u = layer(u)
        return u


class SelectiveStackConfig(SequenceClassifierConfig):
    """A classifier around a `SelectiveStack`.

    Examples:
        >>> SelectiveStackConfig(vocab_size=2).build()(torch.tensor([[0, 1, 1]])).shape
        torch.Size([1])
    """

    kind: Literal["selective-stack"] = "selective-stack"
    d_state: int = Field(default=4, gt=0)
    n_layers: int = Field(default=2, gt=0)
    spectral_abscissa: float = Field(default=0.0, ge=-1e30, le=1e30)

    def mixer(self, generator: torch.Generator | None = None) -> SelectiveStack:
        """A freshly initialised mixer."""
        return SelectiveStack(
            self.d_model,
            self.d_state,
            self.n_layers,
            spectral_abscissa=self.spectral_abscissa,
            generator=generator,
        )


class MambaBlocks(SequenceMixer):
    """Full Mamba blocks, each reading the one below: no norms, no residuals.

    Source: Gu and Dao 2023 (arXiv 2312.00752), Figure 3; docs/studies/bounds.md, Corollary 9.

    Examples:
        >>> block = MambaBlocks(MambaLanguageModelConfig(vocab_size=2, d_model=6))
        >>> block(torch.randn(2, 9, 6)).shape
        torch.Size([2, 9, 6])
    """

    def __init__(self, config: MambaStackConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.d_output = config.d_model
        self.blocks = nn.ModuleList(MambaBlock(config, generator) for _ in range(config.n_layers))

    def forward(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        """Outputs of the top block at every position."""
        for block in self.blocks:
            u = block(u)
        return u


class MambaBlocksConfig(SequenceClassifierConfig):
    """A classifier around Mamba blocks.

    Examples:
        >>> MambaBlocksConfig(vocab_size=2).build()(torch.tensor([[0, 1, 1]])).shape
        torch.Size([1])
    """

    kind: Literal["mamba-blocks"] = "mamba-blocks"
    d_state: int = Field(default=4, gt=0)
    n_layers: int = Field(default=2, gt=0)
    d_conv: int = Field(default=4, gt=0)
    expand: int = Field(default=2, gt=0)

    def mixer(self, generator: torch.Generator | None = None) -> MambaBlocks:
        """A freshly initialised mixer."""
        widths = MambaStackConfig(
            vocab_size=self.vocab_size,
            d_model=self.d_model,
            n_layers=self.n_layers,
            d_state=self.d_state,
            d_conv=self.d_conv,
            expand=self.expand,
        )
        return MambaBlocks(widths, generator)

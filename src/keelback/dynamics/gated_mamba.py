"""A stack of full Mamba blocks on pattern sequences: does the step size select relevant tokens?"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from keelback.models.mamba_stack import MambaBlock, MambaStackConfig, RMSNorm


class PatternMamba(nn.Module):
    """Projection in, blocks with a norm before and a residual around each, mean, one score.

    Each block has its convolution, gate branch and trained projections. Tokens are vectors, so the
    stack starts with a linear map in place of an embedding.
    """

    def __init__(
        self,
        dim: int,
        *,
        d_model: int = 32,
        n_layers: int = 1,
        d_state: int = 8,
        d_conv: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        config = MambaStackConfig(
            vocab_size=1, d_model=d_model, n_layers=n_layers, d_state=d_state, d_conv=d_conv
        )
        self.W_in = nn.Parameter(torch.randn(d_model, dim, generator=generator))
        self.norms = nn.ModuleList(RMSNorm(d_model) for _ in range(n_layers))
        self.blocks = nn.ModuleList(MambaBlock(config, generator) for _ in range(n_layers))
        self.last_norm = RMSNorm(d_model)
        self.head = nn.Parameter(torch.randn(1, d_model, generator=generator) / d_model**0.5)

    def forward(self, tokens: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch scores"]:
        """One score: class 0 where it is positive."""
        return self.last_norm(self._stream(tokens)[-1]).mean(1) @ self.head.mT

    def step_sizes(
        self, tokens: Float[Tensor, "batch length dim"]
    ) -> list[Float[Tensor, "batch length d_inner"]]:
        """delta of every block, position and channel."""
        blocks = zip(self.norms, self.blocks, self._stream(tokens)[:-1], strict=True)
        return [block.step_sizes(norm(u)) for norm, block, u in blocks]  # type: ignore[operator]

    def _stream(self, tokens: Tensor) -> Sequence[Tensor]:
        stream = [tokens @ self.W_in.mT]
        for norm, block in zip(self.norms, self.blocks, strict=True):
            stream.append(stream[-1] + block(norm(stream[-1])))
        return stream

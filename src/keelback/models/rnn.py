"""The vanilla recurrent network."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from keelback.models._projection import project
from keelback.models.sequence_classifier import (
    SequenceClassifierConfig,
    SequenceMixer,
    uniform_by_fan_in,
)


class VanillaRNN(SequenceMixer):
    """`h_t = tanh(W_h h_{t-1} + W_u u_t + b)` with h_0 = 0; the output is h_t.

    Source: Elman 1990, "Finding structure in time". W_h starts orthogonal, so that the state keeps
    its size until the hyperbolic tangent saturates.

    Examples:
        >>> VanillaRNN(d_model=16, d_hidden=5)(torch.randn(2, 50, 16)).shape
        torch.Size([2, 50, 5])
    """

    def __init__(
        self, d_model: int, d_hidden: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.d_output = d_hidden
        orthogonal = torch.empty(d_hidden, d_hidden)
        nn.init.orthogonal_(orthogonal, generator=generator)
        self.W_h = nn.Parameter(orthogonal)
        self.W_u = uniform_by_fan_in(d_hidden, d_model, fan_in=d_model, generator=generator)
        self.b = nn.Parameter(torch.zeros(d_hidden))

    def forward(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_hidden"]:
        """The hidden state at every position."""
        return torch.stack(self._states(u), dim=1)

    def last(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch 1 d_hidden"]:
        """The last hidden state."""
        return self._states(u)[-1].unsqueeze(1)

    def _states(self, u: Float[Tensor, "batch length d_model"]) -> list[Tensor]:
        inputs = project(u, self.W_u) + self.b
        states = [torch.tanh(inputs[:, 0])]
        for step in inputs.unbind(1)[1:]:
            states.append(torch.tanh(step + states[-1] @ self.W_h.mT))
        return states


class VanillaRNNConfig(SequenceClassifierConfig):
    """A classifier around a vanilla recurrent network; the head reads its hidden state.

    Examples:
        >>> VanillaRNNConfig(vocab_size=2).build()(torch.tensor([[0, 1, 1]])).shape
        torch.Size([1])
    """

    kind: Literal["rnn"] = "rnn"
    d_hidden: int = Field(default=5, gt=0)

    def mixer(self, generator: torch.Generator | None = None) -> VanillaRNN:
        """A freshly initialised mixer."""
        return VanillaRNN(self.d_model, self.d_hidden, generator)

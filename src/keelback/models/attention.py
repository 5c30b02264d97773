"""Softmax attention: the baseline that looks at all tokens at once."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from keelback.models._projection import project
from keelback.models.sequence_classifier import (
    SequenceClassifierConfig,
    SequenceMixer,
    uniform_by_fan_in,
)

ALIBI_SLOPE = 2.0**-8
"""The slope of ALiBi's only head (Press, Smith and Lewis 2022, arXiv 2108.12409)."""


class AttentionHead(SequenceMixer):
    """One head's maps to queries, keys and values, and back.

    Args:
        d_model: size of a token vector.
        d_head: size of queries, keys and values.
        slope: how fast a token's weight falls with its distance; 0 makes a bag of tokens.
        generator: source of the initial values.
    """

    def __init__(
        self,
        d_model: int,
        d_head: int,
        slope: float = ALIBI_SLOPE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.d_output, self.slope = d_model, slope
        self.W_Q = uniform_by_fan_in(d_head, d_model, fan_in=d_model, generator=generator)
        self.W_K = uniform_by_fan_in(d_head, d_model, fan_in=d_model, generator=generator)
        self.W_V = uniform_by_fan_in(d_head, d_model, fan_in=d_model, generator=generator)
        self.W_O = uniform_by_fan_in(d_model, d_head, fan_in=d_head, generator=generator)


class SoftmaxAttention(AttentionHead):
    """One head of causal attention; scores fall linearly with distance, which tells positions.

    `y_t = W_O sum_{s <= t} a(t, s) W_V u_s`, where a(t, .) is the softmax over s of
    `(W_Q u_t) . (W_K u_s) / sqrt(d_head) - slope (t - s)`. Sources: Vaswani et al. 2017
    (arXiv 1706.03762); the bias is ALiBi (arXiv 2108.12409).

    Examples:
        >>> SoftmaxAttention(d_model=16, d_head=4)(torch.randn(2, 50, 16)).shape
        torch.Size([2, 50, 16])
    """

    def forward(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        """Outputs at every position; time and memory are quadratic in the length."""
        return self._attend(u, u)

    def last(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch 1 d_model"]:
        """The output at the last position; time and memory are linear in the length."""
        return self._attend(u[:, -1:], u)

    def _attend(
        self, queries: Float[Tensor, "batch last d_model"], u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch last d_model"]:
        """Outputs at the last positions, as many as there are queries."""
        q = project(queries, self.W_Q)
        k, v = project(u, self.W_K), project(u, self.W_V)
        scores = q @ k.mT / q.shape[-1] ** 0.5 + distance_bias(q.shape[1], u, self.slope)
        return torch.softmax(scores, dim=-1) @ v @ self.W_O.mT


def distance_bias(
    queries: int, u: Float[Tensor, "batch length d_model"], slope: float
) -> Float[Tensor, "{queries} length"]:
    """`-slope (t - s)` for the last `queries` positions t and all s, -inf where s > t."""
    length = u.shape[1]
    s = torch.arange(length, device=u.device)
    distance = s[length - queries :, None] - s
    bias = -slope * distance.to(u.dtype)
    return bias.masked_fill(distance < 0, -torch.inf)


class SoftmaxAttentionConfig(SequenceClassifierConfig):
    """A classifier around one head of softmax attention.

    Examples:
        >>> SoftmaxAttentionConfig(vocab_size=2).build()(torch.tensor([[0, 1, 1]])).shape
        torch.Size([1])
    """

    kind: Literal["softmax-attention"] = "softmax-attention"
    d_head: int = Field(default=3, gt=0)
    slope: float = Field(default=ALIBI_SLOPE, ge=0, allow_inf_nan=False)

    def mixer(self, generator: torch.Generator | None = None) -> SoftmaxAttention:
        """A freshly initialised mixer."""
        return SoftmaxAttention(self.d_model, self.d_head, self.slope, generator)

"""Linear attention: the baseline whose state is a sum over the past."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from keelback.models._projection import project
from keelback.models.attention import ALIBI_SLOPE, AttentionHead, distance_bias
from keelback.models.sequence_classifier import SequenceClassifierConfig
from keelback.scan import selective_scan


class LinearAttention(AttentionHead):
    """One head of causal linear attention whose weights fall exponentially with distance.

    `y_t = W_O sum_{s <= t} a(t, s) W_V u_s`, where a(t, s) is `phi(W_Q u_t) . phi(W_K u_s)`
    times `exp(-slope (t - s))`, divided by its sum over s, and `phi(x) = elu(x) + 1`. Sources:
    Katharopoulos et al. 2020 (arXiv 2006.16236); the decay is that of Sun et al. 2023
    (arXiv 2307.08621) and the counterpart of ALiBi in `SoftmaxAttention`.

    Examples:
        >>> LinearAttention(d_model=16, d_head=4)(torch.randn(2, 50, 16)).shape
        torch.Size([2, 50, 16])
    """

    def forward(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        """Outputs at every position, by a scan with constant decay."""
        v = u @ self.W_V.mT
        one = torch.ones_like(v[..., :1])
        sums = selective_scan(
            torch.cat([v, one], dim=-1),
            one,
            torch.full((v.shape[-1] + 1, v.shape[-1]), -self.slope, dtype=u.dtype, device=u.device),
            _features(u @ self.W_K.mT).unsqueeze(-2),
            _features(u @ self.W_Q.mT).unsqueeze(-2),
        )
        assert isinstance(sums, Tensor)
        return sums[..., :-1] / sums[..., -1:] @ self.W_O.mT

    def last(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch 1 d_model"]:
        """The output at the last position, as one weighted mean."""
        k, q = _features(project(u, self.W_K)), _features(project(u[:, -1:], self.W_Q))
        weights = (q @ k.mT) * torch.exp(distance_bias(1, u, self.slope))
        return weights @ project(u, self.W_V) / weights.sum(-1, keepdim=True) @ self.W_O.mT


def _features(x: Float[Tensor, "batch length d_head"]) -> Float[Tensor, "batch length d_head"]:
    return F.elu(x) + 1


class LinearAttentionConfig(SequenceClassifierConfig):
    """A classifier around one head of linear attention.

    Examples:
        >>> LinearAttentionConfig(vocab_size=2).build()(torch.tensor([[0, 1, 1]])).shape
        torch.Size([1])
    """

    kind: Literal["linear-attention"] = "linear-attention"
    d_head: int = Field(default=3, gt=0)
    slope: float = Field(default=ALIBI_SLOPE, ge=0, allow_inf_nan=False)

    def mixer(self, generator: torch.Generator | None = None) -> LinearAttention:
        """A freshly initialised mixer."""
        return LinearAttention(self.d_model, self.d_head, self.slope, generator)

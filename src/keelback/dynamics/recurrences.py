"""Other ways to mix tokens, under the readout of the gated SSM: one harness for all of them.

Every mixer turns tokens (batch, length, dim) into states of the same shape, each a weighted sum of
the tokens up to its position, with keys and queries that are the tokens themselves. What differs is
how a token's weight depends on the tokens after it:

    gated SSM              prod (1 - g_j) g_s, one learned gate a token
    gated linear attention one learned gate a token and feature (Yang et al. 2024, arXiv 2312.06635)
    gated delta rule       a learned forgetting gate and writing strength, with the old value
                           for the same key erased first (Yang et al. 2025, arXiv 2412.06464)
    fixed decay            gamma^(l-s), nothing learned (RetNet, arXiv 2307.08621)
    softmax attention      softmax of learned products, optionally within a window, and with a
                           learned bias for every distance
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from keelback.dynamics.gated import class_readout, log_decay
from keelback.errors import InputError

Tokens = Float[Tensor, "batch length dim"]


class GatedMixer(nn.Module):
    """The gated SSM's own mixing, W_B = W_C = I; `frozen` keeps the gate at 1/2."""

    def __init__(self, dim: int, *, frozen: bool = False, train_mixing: bool = False) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(dim), requires_grad=not frozen)
        self.W_B = nn.Parameter(torch.eye(dim), requires_grad=train_mixing)
        self.W_C = nn.Parameter(torch.eye(dim), requires_grad=train_mixing)

    def forward(self, tokens: Tokens) -> Tokens:
        """States after the gated recurrence."""
        scores = (tokens @ self.W_C.mT) @ (tokens @ self.W_B.mT).mT
        return (log_decay(tokens @ self.w).exp() * scores) @ tokens


class GatedLinearAttention(nn.Module):
    """`S_t = diag(alpha_t) S_{t-1} + k_t x_t^T`, `alpha_t = sigmoid(W_alpha x_t + b)`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.W_alpha = nn.Parameter(torch.zeros(dim, dim))
        self.b = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tokens) -> Tokens:
        """States by the attention form, one weight a key feature."""
        kept = F.logsigmoid(tokens @ self.W_alpha.mT + self.b).cumsum(-2)
        between = kept[..., :, None, :] - kept[..., None, :, :]
        decay = between.masked_fill(~_causal(tokens)[..., None], -torch.inf).exp()
        return torch.einsum("blk,blsk,bsk,bsd->bld", tokens, decay, tokens, tokens)


class GatedDeltaRule(nn.Module):
    """`S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t x_t k_t^T`, both gates learned."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w_alpha = nn.Parameter(torch.zeros(dim))
        self.w_beta = nn.Parameter(torch.zeros(dim))

    def forward(self, tokens: Tokens) -> Tokens:
        """States by the recurrence; keys are the tokens at unit length."""
        keys = F.normalize(tokens, dim=-1)
        alpha = torch.sigmoid(tokens @ self.w_alpha)[..., None, None]
        beta = torch.sigmoid(tokens @ self.w_beta)[..., None]
        S = torch.zeros_like(tokens[:, 0, :, None] * tokens[:, 0, None, :])
        states = []
        for step in range(tokens.shape[1]):
            key, value = keys[:, step], tokens[:, step]
            old = (S @ key[..., None])[..., 0]
            change = beta[:, step] * (value - alpha[:, step, :, 0] * old)
            S = alpha[:, step] * S + change[..., :, None] * key[..., None, :]
            states.append((S @ tokens[:, step, :, None])[..., 0])
        return torch.stack(states, dim=1)


class FixedDecay(nn.Module):
    """Weights `gamma^(l-s) (1 - gamma)`: the same forgetting for every token."""

    def __init__(self, gamma: float = 0.5) -> None:
        super().__init__()
        if not 0 < gamma < 1:
            raise InputError(f"fixed decay: gamma lies strictly between 0 and 1, not {gamma}")
        self.gamma = gamma

    def forward(self, tokens: Tokens) -> Tokens:
        """States by the attention form."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        distance = (place[:, None] - place[None, :]).clamp_min(0)
        weights = _causal(tokens) * (1 - self.gamma) * self.gamma**distance
        return (weights * (tokens @ tokens.mT)) @ tokens


class SoftmaxAttention(nn.Module):
    """`softmax(x W x^T + bias[l - s])` over a causal window; W and the bias start at zero."""

    def __init__(
        self, dim: int, length: int, *, window: int | None = None, positions: bool = False
    ) -> None:
        super().__init__()
        if window is not None and window < 1:
            raise InputError(f"softmax attention: a window holds at least one token, not {window}")
        self.window = length if window is None else window
        self.W = nn.Parameter(torch.zeros(dim, dim))
        self.bias = nn.Parameter(torch.zeros(length), requires_grad=positions)

    def forward(self, tokens: Tokens) -> Tokens:
        """States by attention."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        distance = place[:, None] - place[None, :]
        scores = tokens @ self.W @ tokens.mT + self.bias[distance.clamp_min(0)]
        seen = (distance >= 0) & (distance < self.window)
        return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ tokens


class PatternClassifier(nn.Module):
    """A mixer under the gated SSM's readout: `F = 1/L sum_l v . relu(W_O y_l)`."""

    v: Tensor

    def __init__(
        self,
        mixer: nn.Module,
        dim: int,
        width: int,
        *,
        classes: int = 2,
        readout_scale: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.register_buffer("v", class_readout(width, classes))
        self.W_O = nn.Parameter(readout_scale * torch.randn(width, dim, generator=generator))

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch scores"]:
        """One score for two classes, else one a class."""
        return (torch.relu(self.mixer(tokens) @ self.W_O.mT) @ self.v).mean(1)


def _causal(tokens: Tensor) -> Tensor:
    length = tokens.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()

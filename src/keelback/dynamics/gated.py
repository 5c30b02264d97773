"""The gated state-space model of arXiv 2602.12499: one layer, one head, a two-layer readout.

g_s = sigmoid(w . x_s)
h_l = (1 - g_l) h_{l-1} + g_l x_l (W_B x_l)^T
y_l = h_l (W_C x_l)
F(X) = 1/L sum_l sum_i v_i relu(W_O[i] . y_l)
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from keelback.errors import InputError
from keelback.scan import selective_scan

Mixing = Literal["identity", "orthogonal", "gaussian"]
Form = Literal["quadratic", "scan", "recurrent"]


def log_decay(gate_logits: Float[Tensor, "*batch length"]) -> Float[Tensor, "*batch length length"]:
    """log G(s, l) at [l, s]: how much of token s is left in the state at l; -inf for s > l.

    `G(s, l) = g_s * prod_{s<j<=l} (1 - g_j)`, formed from logarithms, so that long products and
    closed gates stay exact.
    """
    length = gate_logits.shape[-1]
    kept = F.logsigmoid(-gate_logits).cumsum(-1)
    between = kept[..., :, None] - kept[..., None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=gate_logits.device).tril()
    inflow = F.logsigmoid(gate_logits)[..., None, :]
    return (between + inflow).masked_fill(~causal, -torch.inf)


def class_readout(width: int, classes: int = 2) -> Float[Tensor, "width scores"]:
    """Fixed output weights v: 1/sqrt(width) times +-1 in equal halves, one score for two classes.

    For more classes every class owns an equal share of the hidden units, and column c holds
    `(own - 1/classes) / sqrt(width)`; with two classes the difference of the two columns would be
    the single column returned here.

    Raises:
        InputError: when `width` is not a positive multiple of `classes`.
    """
    if width < classes or width % classes:
        what = "odd widths leave the signs unbalanced; " if classes == 2 else ""
        raise InputError(
            f"gated SSM: {what}the width is a positive multiple of {classes}, not {width}"
        )
    owner = torch.arange(width) * classes // width
    if classes == 2:
        return torch.where(owner == 0, 1.0, -1.0)[:, None] / width**0.5
    return (F.one_hot(owner, classes) - 1 / classes) / width**0.5


def mixing_matrices(
    dim: int, mixing: Mixing, generator: torch.Generator
) -> tuple[Float[Tensor, "dim dim"], Float[Tensor, "dim dim"]]:
    """W_B and W_C at initialisation.

    "identity" and "orthogonal" satisfy `W_B^T W_C = I` (the same matrix twice); "gaussian" draws
    both with entries N(0, 1/dim), independent of each other.
    """
    if mixing == "identity":
        return torch.eye(dim), torch.eye(dim)
    first = torch.randn(dim, dim, generator=generator) / dim**0.5
    if mixing == "orthogonal":
        orthogonal = torch.linalg.qr(first)[0]
        return orthogonal, orthogonal.clone()
    if mixing == "gaussian":
        return first, torch.randn(dim, dim, generator=generator) / dim**0.5
    raise InputError(f"gated SSM: mixing is identity, orthogonal or gaussian, not {mixing!r}")


class GatedSSM(nn.Module):
    """The paper's model, with its open choices as options.

    Args:
        dim: features, and coordinates of a token.
        width: hidden units m of the readout; a multiple of `classes`.
        classes: two gives one score (class 0 is z = +1), more give one score a class.
        mixing: how W_B and W_C start; see `mixing_matrices`.
        train_mixing: whether W_B and W_C are trained.
        train_gate: whether w is trained; a frozen gate stays at `sigmoid(0) = 1/2`.
        readout_scale: standard deviation of the entries of W_O at the start; w starts at zero.
        generator: source of the random initial weights.

    Examples:
        >>> model = GatedSSM(dim=16, width=20)
        >>> model(torch.randn(3, 30, 16)).shape
        torch.Size([3, 1])
    """

    v: Tensor

    def __init__(
        self,
        dim: int,
        width: int,
        *,
        classes: int = 2,
        mixing: Mixing = "identity",
        train_mixing: bool = False,
        train_gate: bool = True,
        readout_scale: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.register_buffer("v", class_readout(width, classes))
        W_O = readout_scale * torch.randn(width, dim, generator=generator)
        W_B, W_C = mixing_matrices(dim, mixing, generator)
        self.w = nn.Parameter(torch.zeros(dim), requires_grad=train_gate)
        self.W_O = nn.Parameter(W_O)
        self.W_B = nn.Parameter(W_B, requires_grad=train_mixing)
        self.W_C = nn.Parameter(W_C, requires_grad=train_mixing)

    def forward(
        self, tokens: Float[Tensor, "batch length dim"], form: Form = "quadratic"
    ) -> Float[Tensor, "batch scores"]:
        """Scores F(X), by the attention form, `keelback.scan`, or the loop that defines it."""
        states = self.mixed(tokens, form)
        return (torch.relu(states @ self.W_O.T) @ self.v).mean(1)

    def mixed(
        self, tokens: Float[Tensor, "batch length dim"], form: Form = "quadratic"
    ) -> Float[Tensor, "batch length dim"]:
        """The tokens y after the gated recurrence."""
        if form == "quadratic":
            return self._quadratic(tokens)
        if form == "scan":
            return self._scan(tokens)
        if form == "recurrent":
            return self._recurrent(tokens)
        raise InputError(f"gated SSM: form is quadratic, scan or recurrent, not {form!r}")

    def _quadratic(self, tokens: Tensor) -> Tensor:
        decay = log_decay(tokens @ self.w).exp()
        scores = (tokens @ self.W_C.T) @ (tokens @ self.W_B.T).mT
        return (decay * scores) @ tokens

    def _scan(self, tokens: Tensor) -> Tensor:
        """With A = -1 and delta = softplus(w . x), `exp(delta A)` is 1 - g.

        The scan multiplies the input by delta where the model wants g, so B carries g / delta.
        """
        logits = tokens @ self.w
        delta = F.softplus(logits)
        inflow = torch.where(logits > -30, torch.sigmoid(logits) / delta.clamp_min(1e-30), 1.0)
        B = inflow[..., None] * (tokens @ self.W_B.T)
        C = tokens @ self.W_C.T
        dim = tokens.shape[-1]
        A = -torch.ones(dim, dim, dtype=tokens.dtype, device=tokens.device)
        result = selective_scan(tokens, delta[..., None], A, B[:, :, None], C[:, :, None])
        assert isinstance(result, Tensor)
        return result

    def _recurrent(self, tokens: Tensor) -> Tensor:
        gates = torch.sigmoid(tokens @ self.w)[..., None, None]
        inputs = tokens[..., :, None] * (tokens @ self.W_B.T)[..., None, :]
        queries = tokens @ self.W_C.T
        h = torch.zeros_like(inputs[:, 0])
        states = []
        for step in range(tokens.shape[1]):
            h = (1 - gates[:, step]) * h + gates[:, step] * inputs[:, step]
            states.append((h @ queries[:, step, :, None])[..., 0])
        return torch.stack(states, dim=1)


def hinge_loss(
    scores: Float[Tensor, "batch scores"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """max(0, 1 - margin): the margin is z F for one score, best-other (Crammer-Singer) for more."""
    if scores.shape[-1] == 1:
        signs = torch.where(labels == 0, 1.0, -1.0).to(scores.dtype)
        return torch.relu(1 - signs * scores[..., 0])
    own = scores.gather(-1, labels[..., None])
    rest = scores.scatter(-1, labels[..., None], -torch.inf)
    return torch.relu(1 - (own[..., 0] - rest.amax(-1)))

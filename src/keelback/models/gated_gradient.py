"""Loss and gradient of many gated SSMs at once, in closed form.

Every replica has its own data, gating vector w and readout W_O; W_B, W_C and v are fixed. With

    a = x . w
    P[l, s] = G(s, l) x_s . (W_B^T W_C x_l)
    y = P x
    F = 1/L sum_l v . relu(W_O y_l)

the gradient needs one pass back:

    u_l   = W_O^T (v * [W_O y_l > 0])           dF/dy_l, times L
    T     = P * (u x^T)                         dF/dlog G(s, l)
    da_j  = (1 - g_j) sum_l T[l, j] - g_j sum_{l >= j > s} T[l, s]

Rows and columns of T have the same total, so the second sum, over all of T that crosses j, is what
rows exceed columns by from j on, or columns rows before j.

`P` depends on the data through the products `x_s . (W_B^T W_C x_l)`, which are formed once.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keelback.errors import InputError, JobError
from keelback.models.gated import log_decay


@dataclass(frozen=True)
class HingeStep:
    """Mean hinge loss of every replica, and its gradient in w and W_O."""

    loss: Float[Tensor, " replicas"]
    w: Float[Tensor, "replicas dim"]
    W_O: Float[Tensor, "replicas width dim"]


@runtime_checkable
class HingeObjective(Protocol):
    """The training (or test) data of a batch of replicas, ready to be scored and differentiated."""

    @property
    def signs(self) -> Float[Tensor, "replicas samples"]:
        """Class z of every sample, +1 or -1."""
        ...

    def margins(
        self, w: Float[Tensor, "replicas dim"], W_O: Float[Tensor, "replicas width dim"]
    ) -> Float[Tensor, "replicas samples"]:
        """Compute z F(X) of every sample."""
        ...

    def gradient(
        self, w: Float[Tensor, "replicas dim"], W_O: Float[Tensor, "replicas width dim"]
    ) -> HingeStep:
        """Compute the mean of max(0, 1 - z F(X)) and its gradient."""
        ...

    def keep(self, replicas: Int[Tensor, " kept"]) -> "HingeObjective":
        """Return the same data for these replicas alone."""
        ...


@dataclass(frozen=True)
class TorchHinge:
    """The closed form in PyTorch operations: any device, any floating dtype."""

    tokens: Float[Tensor, "replicas samples length dim"]
    signs: Float[Tensor, "replicas samples"]
    v: Float[Tensor, " width"]
    scores: Float[Tensor, "replicas samples length length"]

    def margins(self, w: Tensor, W_O: Tensor) -> Tensor:
        """Compute z F(X) of every sample."""
        return self._forward(w, W_O)[0]

    def gradient(self, w: Tensor, W_O: Tensor) -> HingeStep:
        """Compute the mean hinge loss and its gradient."""
        margins, logits, weights, states, hidden = self._forward(w, W_O)
        replicas, samples, length, dim = self.tokens.shape
        loss = torch.relu(1 - margins).mean(1)
        slope = torch.where(margins < 1, -self.signs, 0.0) / (samples * length)
        active = (hidden > 0).to(w.dtype).view(replicas, samples, -1) * slope[..., None]
        active = active.view(replicas, samples * length, -1) * self.v
        W_O_gradient = active.mT @ states.view(replicas, samples * length, dim)
        upstream = (active @ W_O).view_as(self.tokens)
        through = weights * (upstream @ self.tokens.mT)
        inflow = through.sum(-2)
        change = through.sum(-1) - inflow
        crossing = change - change.cumsum(-1)
        gates = torch.sigmoid(logits)
        logit_gradient = inflow * (1 - gates) - gates * crossing
        w_gradient = torch.einsum("rnl,rnld->rd", logit_gradient, self.tokens)
        return HingeStep(loss, w_gradient, W_O_gradient)

    def keep(self, replicas: Tensor) -> "TorchHinge":
        """Return the same data for these replicas alone."""
        return TorchHinge(
            self.tokens[replicas], self.signs[replicas], self.v, self.scores[replicas]
        )

    def _forward(self, w: Tensor, W_O: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        logits = torch.einsum("rnld,rd->rnl", self.tokens, w)
        weights = log_decay(logits).exp() * self.scores
        states = weights @ self.tokens
        hidden = states.flatten(1, 2) @ W_O.mT
        output = (torch.relu(hidden) @ self.v).view(logits.shape).mean(-1)
        return self.signs * output, logits, weights, states, hidden


def hinge_objective(
    tokens: Float[Tensor, "replicas samples length dim"],
    signs: Float[Tensor, "replicas samples"],
    v: Float[Tensor, " width"],
    mixing: Float[Tensor, "replicas dim dim"] | None = None,
    *,
    backend: str | None = None,
) -> HingeObjective:
    """Prepare the data of a batch of replicas for `backend`.

    Args:
        tokens: noisy tokens of every replica.
        signs: z, +1 or -1.
        v: output weights, shared by all replicas.
        mixing: `W_B^T W_C` of every replica; the identity where left out.
        backend: "torch", "numba" (CPU) or "triton" (NVIDIA GPU); left out, the fastest that the
            device and dtype allow.

    Raises:
        InputError: for a backend that does not exist or does not run on the tokens' device.
        JobError: the GPU kernel was asked for and does not give the right gradient here.
    """
    chosen = _fastest(tokens, len(v)) if backend is None else backend
    queries = tokens if mixing is None else tokens @ mixing.mT[:, None]
    scores = queries @ tokens.mT
    if chosen == "torch":
        return TorchHinge(tokens, signs, v, scores)
    if chosen == "numba":
        if tokens.device.type != "cpu" or tokens.dtype != torch.float32:
            raise InputError("gated SSM: the numba backend takes float32 tokens on the CPU")
        from keelback.models.gated_gradient_numba import numba_hinge

        return numba_hinge(tokens, signs, v, scores)
    if chosen == "triton":
        if tokens.device.type != "cuda" or tokens.dtype != torch.float32:
            raise InputError("gated SSM: the triton backend takes float32 tokens on an NVIDIA GPU")
        from keelback.models.gated_gradient_triton import agrees, triton_hinge

        if not agrees(tokens.shape[2], tokens.shape[3], len(v), str(tokens.device)):
            raise JobError(
                "gated SSM: the GPU kernel, as Triton compiles it here, does not give the right "
                'gradient; use backend "torch"'
            )
        return triton_hinge(tokens, signs, v, scores)
    raise InputError(f"gated SSM: backend is torch, numba or triton, not {chosen!r}")


def _fastest(tokens: Tensor, width: int) -> str:
    if tokens.dtype != torch.float32:
        return "torch"
    if tokens.device.type == "cpu":
        return "numba"
    if tokens.device.type == "cuda":
        from keelback.models.gated_gradient_triton import agrees, fits

        shape = (tokens.shape[2], tokens.shape[3], width)
        return "triton" if fits(*shape) and agrees(*shape, str(tokens.device)) else "torch"
    return "torch"

"""Loss and gradient of many gated SSMs at once, in closed form, in PyTorch.

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

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.dynamics.gated import log_decay
from keelback.dynamics.gradient.objective import HingeStep


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
        logit_gradient = self._through_gates(upstream, logits, weights)
        w_gradient = torch.einsum("rnl,rnld->rd", logit_gradient, self.tokens)
        return HingeStep(loss, w_gradient, W_O_gradient)

    def output_gradients(self, w: Tensor, W_O: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of F of every sample on its own.

        Returns:
            dF/dw of shape (replicas, samples, dim) and dF/dW_O, (replicas, samples, width, dim).
        """
        _, logits, weights, states, hidden = self._forward(w, W_O)
        replicas, samples, length, _ = self.tokens.shape
        active = (hidden > 0).to(w.dtype).view(replicas, samples, length, -1) * self.v / length
        upstream = (active.flatten(1, 2) @ W_O).view_as(self.tokens)
        logit_gradient = self._through_gates(upstream, logits, weights)
        w_gradient = torch.einsum("rnl,rnld->rnd", logit_gradient, self.tokens)
        return w_gradient, active.mT @ states

    def keep(self, replicas: Tensor) -> "TorchHinge":
        """Return the same data for these replicas alone."""
        return TorchHinge(
            self.tokens[replicas], self.signs[replicas], self.v, self.scores[replicas]
        )

    def _through_gates(self, upstream: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
        """Gradient in the gates' logits, from that in the states y."""
        through = weights * (upstream @ self.tokens.mT)
        inflow = through.sum(-2)
        change = through.sum(-1) - inflow
        crossing = change - change.cumsum(-1)
        gates = torch.sigmoid(logits)
        return inflow * (1 - gates) - gates * crossing

    def _forward(self, w: Tensor, W_O: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        logits = torch.einsum("rnld,rd->rnl", self.tokens, w)
        weights = log_decay(logits).exp() * self.scores
        states = weights @ self.tokens
        hidden = states.flatten(1, 2) @ W_O.mT
        output = (torch.relu(hidden) @ self.v).view(logits.shape).mean(-1)
        return self.signs * output, logits, weights, states, hidden

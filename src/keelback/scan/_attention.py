"""The selective scan as attention: the matrix that takes inputs to outputs."""

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.compiled.checks import require_groups, require_shape


def attention_matrix(
    delta: Float[Tensor, "batch length #channels"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "batch length groups state"],
    C: Float[Tensor, "batch length groups state"],
) -> Float[Tensor, "batch channels length length"]:
    """`alpha[b, c, t, s]` with `y[b, t, c] = sum over s <= t of alpha[b, c, t, s] u[b, s, c]`.

    `alpha(t, s) = delta_s C_t . (exp(A sum_{s<r<=t} delta_r) * B_s)`, where `delta` is the step
    size itself. Memory is quadratic in the length. Source: arXiv 2502.01473, Section 3.

    Raises:
        InputError: An operand has the wrong shape.

    Examples:
        >>> delta, A = torch.full((1, 5, 2), 0.1), -torch.ones(2, 3)
        >>> B, C = torch.ones(1, 5, 1, 3), torch.ones(1, 5, 1, 3)
        >>> weights = attention_matrix(delta, A, B, C)
        >>> weights.shape, bool((weights.triu(1) == 0).all())  # no output sees a later input
        (torch.Size([1, 2, 5, 5]), True)
    """
    require_shape("A", A, ("channels", "state"))
    channels, states = A.shape
    require_shape("delta", delta, ("batch", "length", channels), ("batch", "length", 1))
    batch, length, _ = delta.shape
    for name, x in (("B", B), ("C", C)):
        require_shape(name, x, (batch, length, "groups", states))
        require_groups(name, x.shape[2], channels)
    B, C = (m.repeat_interleave(channels // m.shape[2], dim=2) for m in (B, C))
    delta = delta.expand(-1, -1, channels).movedim(-1, 1)
    clock = delta.cumsum(-1)
    causal = torch.ones(length, length, dtype=torch.bool, device=delta.device).tril()
    elapsed = torch.where(causal, clock.unsqueeze(-1) - clock.unsqueeze(-2), 0.0)
    decay = torch.exp(elapsed.unsqueeze(-1) * A[:, None, None, :])
    alpha = torch.einsum("btcn,bctsn,bscn->bcts", C, decay, B) * delta.unsqueeze(-2)
    return torch.where(causal, alpha, 0.0)

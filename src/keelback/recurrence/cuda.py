"""The diagonal recurrence on a GPU: by doubling, in PyTorch's operations.

After the step of 1, 2, 4, ... each state has taken in that many inputs (Hillis and Steele 1986), so
that the number of operations grows with the logarithm of the length alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.layouts import Signature

#: Half precision is widened before.
WIDENS = False


class Doubling:
    """See `keelback.compiled.backends.Prepared`."""

    def forward(self, operands: Sequence[Any], keep: bool) -> tuple[Tensor]:
        """The states after each step."""
        return (_states(*operands),)

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Any],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the factors, the inputs and the first states."""
        (dh,) = gradients
        a, x, first = operands
        assert dh is not None
        if not x.shape[-2]:
            return x.new_empty(x.shape), x.new_empty(x.shape), torch.zeros_like(first)
        before = torch.cat([first.unsqueeze(-2), _states(a, x, first)[..., :-1, :]], -2)
        later = torch.cat([a[..., 1:, :], torch.zeros_like(a[..., :1, :])], -2)
        dx = _states(later.flip(-2), dh.flip(-2), torch.zeros_like(first)).flip(-2)
        return dx * before, dx, a[..., 0, :] * dx[..., 0, :]


def _states(a: Tensor, x: Tensor, first: Tensor) -> Tensor:
    if not x.shape[-2]:
        return x.clone()
    start = torch.addcmul(x[..., :1, :], a[..., :1, :], first.unsqueeze(-2))
    h, span, length = torch.cat([start, x[..., 1:, :]], -2), 1, x.shape[-2]
    while span < length:
        new = torch.addcmul(h[..., span:, :], a[..., span:, :], h[..., :-span, :])
        h = torch.cat([h[..., :span, :], new], -2)
        span *= 2
        if span < length:
            half = span // 2
            a = torch.cat([a[..., :half, :], a[..., half:, :] * a[..., :-half, :]], -2)
    return h


_DOUBLING = Doubling()


def prepare(signature: Signature, options: tuple[Any, ...]) -> Doubling:
    """The same for every signature."""
    return _DOUBLING

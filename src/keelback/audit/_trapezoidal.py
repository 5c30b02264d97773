"""Mamba-3's recurrence: states that turn, and writes that are shared between two steps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.audit._recurrence import Recurrence, alike, pausing
from keelback.ssd import Mamba3States, mamba3


class TrapezoidalRecurrence(Recurrence):
    """`h_t = e^{l_t} R_t (h_{t-1} + (1 - share_t) dt_t u_{t-1}) + share_t dt_t u_t`.

    `y_t = h_t C_t`; `u_t` is the sum over ranks of `x_t B_t^T`, `l_t = delta_t A` the log decay,
    one rate a head, and `R_t` turns pairs of states. Operands are as in `keelback.ssd.mamba3`.
    Source: Lahoti et al. 2026 (arXiv 2603.15569).

    Args:
        x: `(batch, length, heads, rank, head_dim)`.
        dt: what writes are multiplied by, `(batch, length, heads)`.
        delta, A: step sizes `(batch, length, heads)` and decay rates `(heads, 1)`; `delta * A` is
            the log decay. `delta` need not be `dt`.
        B, C: `(batch, length, groups, rank, state)`.
        share: of the present input, `(batch, length, heads)`.
        angles: by which pairs of states turn, `(batch, length, heads, pairs)`.
    """

    def __init__(
        self,
        x: Float[Tensor, "batch length heads rank head_dim"],
        dt: Float[Tensor, "batch length heads"],
        delta: Float[Tensor, "batch length heads"],
        A: Float[Tensor, "heads 1"],
        B: Float[Tensor, "batch length groups rank state"],
        C: Float[Tensor, "batch length groups rank state"],
        share: Float[Tensor, "batch length heads"],
        angles: Float[Tensor, "batch length heads pairs"],
    ) -> None:
        self.x, self.dt, self.delta, self.A, self.B, self.C, self.share, self.angles = alike(
            x, dt, delta, A, B, C, share, angles
        )
        self._log_decay = self.delta * self.A[:, 0]
        self._output: Tensor | None = None

    @property
    def state_size(self) -> int:
        """States per channel."""
        return self.B.shape[-1]

    def _scan(self, window: slice, states: Mamba3States | None) -> tuple[Tensor, Mamba3States]:
        dt = self.dt[:, window].clamp_min(torch.finfo(self.dt.dtype).tiny)
        rates = self._log_decay[:, window] / dt
        B, C, share, angles = (one[:, window] for one in (self.B, self.C, self.share, self.angles))
        return mamba3(self.x[:, window], dt, rates, B, C, share, angles, states)

    def output(self) -> Float[Tensor, "batch length channels"]:
        """`y`, heads, ranks and channels of a head flattened, before skip connection and gate."""
        if self._output is None:
            self._output = self._scan(slice(None), None)[0].flatten(2)
        return self._output

    def without_state(self) -> Float[Tensor, "batch length channels"]:
        """Nothing: the skip connection comes after the recurrence."""
        return torch.zeros_like(self.x).flatten(2)

    def state_norms(self, positions: Sequence[int]) -> Float[Tensor, "batch positions rates"]:
        """Norm of the state after each of the ascending `positions`."""
        norms = [
            states.states.square().sum(-1).mean(-1).sqrt()
            for _, states in pausing(self._scan, positions)
        ]
        return torch.stack(norms, dim=1)

    def attention(
        self, query: int, rates: Sequence[int]
    ) -> Float[Tensor, "batch rates query_plus_one"]:
        """`C_t . R_{s<r<=t} B_s` times the decay and what `s` and the step after it write.

        With several ranks the norm of the weights between all of them, which has no sign.
        """
        upto = slice(query + 1)
        chosen = torch.as_tensor(rates, device=self.x.device)
        group = chosen // (self.A.shape[0] // self.B.shape[2])
        passed = (one[:, upto, chosen].double() for one in (self._log_decay, self.angles))
        decay, turned = (one.sum(1, keepdim=True) - one.cumsum(1) for one in passed)
        read = _turned_back(self.C[:, query, None][:, :, group], turned.to(self.x.dtype))
        along = read @ self.B[:, upto, group].mT  # (batch, positions, rates, rank, rank)
        products = along[..., 0, 0] if along.shape[-1] == 1 else along.flatten(-2).norm(dim=-1)
        share, dt = self.share[:, upto, chosen], self.dt[:, upto, chosen]
        written = share * dt + F.pad(((1 - share) * dt)[:, 1:], (0, 0, 0, 1))
        return (products * written * decay.exp().to(written.dtype)).movedim(1, -1)


def _turned_back(
    C: Float[Tensor, "batch 1 rates rank state"],
    angles: Float[Tensor, "batch positions rates pairs"],
) -> Float[Tensor, "batch positions rates rank state"]:
    """What reads a state as C does, before the state is turned by `angles`."""
    whole, back = 2 * angles.shape[-1], angles.unsqueeze(-2)
    a, b = C[..., :whole].unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = back.cos(), back.sin()
    found = torch.stack([a * cos + b * sin, b * cos - a * sin], -1).flatten(-2)
    rest = C[..., whole:].expand(*found.shape[:-1], -1)
    return torch.cat([found, rest], -1)

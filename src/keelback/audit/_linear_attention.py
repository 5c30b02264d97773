"""Linear attention whose memory decays by factors read off the token: GLA, HGRN2, retention."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.audit._recurrence import ScannedRecurrence, alike, pausing
from keelback.ssd import gated_linear_attention


class LinearAttentionRecurrence(ScannedRecurrence):
    """`S_t = S_{t-1} diag(exp(delta_t A)) + v_t k_t^T`, `y_t = S_t q_t`.

    `S_t` is `(value_dim, key_dim)` in each head. There is one rate per head (simple gated linear
    attention; retention, Sun et al. 2023, arXiv 2307.08621), or one per head and key dimension,
    heads outermost (GLA, Yang et al. 2023, arXiv 2312.06635; HGRN2, Qin et al. 2024, arXiv
    2404.07904). Step sizes set the decay alone: what is written is the value as it is.

    Args:
        query: scaled, `(batch, length, heads, key_dim)`; `key` likewise.
        value: `(batch, length, heads, value_dim)`.
        delta, A: step sizes and decay rates; `delta * A` is the log decay.
    """

    def __init__(
        self,
        query: Float[Tensor, "batch length heads key_dim"],
        key: Float[Tensor, "batch length heads key_dim"],
        value: Float[Tensor, "batch length heads value_dim"],
        delta: Float[Tensor, "batch length rates"],
        A: Float[Tensor, "rates 1"],
    ) -> None:
        self.query, self.key, self.value, self.delta, self.A = alike(query, key, value, delta, A)
        self._log_decay = (self.delta * self.A[:, 0]).unflatten(-1, (self.key.shape[2], -1))

    @property
    def _by_head(self) -> bool:
        return self.A.shape[0] == self.key.shape[2]

    def _scan(self, window: slice, states: Tensor | None) -> tuple[Tensor, Tensor]:
        logs = self._log_decay.squeeze(-1) if self._by_head else self._log_decay
        q, k, v, g = (x[:, window] for x in (self.query, self.key, self.value, logs))
        result = gated_linear_attention(q, k, v, g, None, states, return_final_states=True)
        assert isinstance(result, tuple)
        return result

    def state_norms(self, positions: Sequence[int]) -> Float[Tensor, "batch positions rates"]:
        """Norm of a head's states, or size of those of a key dimension, after each position.

        The root mean square over the channels of the value.
        """
        norms = []
        for _, states in pausing(self._scan, positions):
            squares = states.square()
            per_rate = squares.sum(-1, keepdim=True) if self._by_head else squares
            norms.append(per_rate.mean(-2).sqrt().flatten(1))
        return torch.stack(norms, dim=1)

    def attention(
        self, query: int, rates: Sequence[int]
    ) -> Float[Tensor, "batch rates query_plus_one"]:
        """`q_t . (decays from s to t) k_s`; of a key dimension's rate, its share of the sum."""
        chosen = torch.as_tensor(rates, device=self.key.device)
        logs = self.delta[:, : query + 1, chosen].double() * self.A[chosen, 0]
        decays = (logs.sum(1, keepdim=True) - logs.cumsum(1)).exp().to(self.key.dtype)
        products = self.key[:, : query + 1] * self.query[:, query, None]
        along = products.sum(-1) if self._by_head else products.flatten(2)
        return (along[:, :, chosen] * decays).movedim(1, -1)

"""The generalised delta rule: what is erased and what is written lie along different vectors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.audit._recurrence import ScannedRecurrence, alike, pausing
from keelback.delta import generalised_delta_rule


class GeneralisedDeltaRecurrence(ScannedRecurrence):
    """`S_t = (diag(exp(delta_t A)) + b_t a_t^T) S_{t-1} + k_t v_t^T`, `y_t = S_t^T q_t`.

    `S_t` is `(key_dim, value_dim)` in each head, with one rate for each head and key dimension,
    heads outermost. In RWKV-7 `a_t` is minus the removal key and `b_t` that key times the
    in-context learning rates (Peng et al. 2025, arXiv 2503.14456; their state is the transpose).

    Args:
        query, key: `(batch, length, heads, key_dim)`.
        value: `(batch, length, heads, value_dim)`.
        reads: `a`, along which the state before a step is read, and
        moves: `b`, along which what was read is added; both of the shape of the keys.
        delta, A: step sizes and decay rates; `delta * A` is the log decay.
    """

    def __init__(
        self,
        query: Float[Tensor, "batch length heads key_dim"],
        key: Float[Tensor, "batch length heads key_dim"],
        value: Float[Tensor, "batch length heads value_dim"],
        reads: Float[Tensor, "batch length heads key_dim"],
        moves: Float[Tensor, "batch length heads key_dim"],
        delta: Float[Tensor, "batch length rates"],
        A: Float[Tensor, "rates 1"],
    ) -> None:
        self.query, self.key, self.value, self.reads, self.moves, self.delta, self.A = alike(
            query, key, value, reads, moves, delta, A
        )
        self._log_decay = (self.delta * self.A[:, 0]).unflatten(-1, self.key.shape[2:])

    def _scan(self, window: slice, state: Tensor | None) -> tuple[Tensor, Tensor]:
        operands = (self.query, self.key, self.value, self.reads, self.moves, self._log_decay)
        q, k, v, a, b, g = (x[:, window] for x in operands)
        result = generalised_delta_rule(q, k, v, a, b, g, state, return_final_states=True)
        assert isinstance(result, tuple)
        return result

    def state_norms(self, positions: Sequence[int]) -> Float[Tensor, "batch positions rates"]:
        """Norm of a key dimension's row of the state, after each of `positions`."""
        norms = [state.norm(dim=-1).flatten(1) for _, state in pausing(self._scan, positions)]
        return torch.stack(norms, dim=1)

    def attention(
        self, query: int, rates: Sequence[int]
    ) -> Float[Tensor, "batch rates query_plus_one"]:
        """A row's share of its head's weights, found by carrying the query back to each value."""
        per_head = self.state_size
        heads = [rate // per_head for rate in rates]
        rows = torch.as_tensor([rate % per_head for rate in rates], device=self.query.device)
        carried = self.query[:, query, heads] * F.one_hot(rows, per_head)
        weights = []
        for s in range(query, -1, -1):
            weights.append((self.key[:, s, heads] * carried).sum(-1))
            along = (self.moves[:, s, heads] * carried).sum(-1, keepdim=True)
            decay = torch.exp(self._log_decay[:, s, heads])
            carried = decay * carried + along * self.reads[:, s, heads]
        return torch.stack(weights[::-1], dim=-1)

"""The gated delta rule: state-space layers that erase along a key before they write."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.audit._recurrence import Erased, MatrixRecurrence, alike

_WORST_STEPS = 64


class DeltaRuleRecurrence(MatrixRecurrence):
    """`S_t = (I - beta_t k_t k_t^T) diag(exp(delta_t A)) S_{t-1} + beta_t k_t v_t^T`.

    The output is `y_t = S_t^T q_t`, and `S_t` is `(key_dim, value_dim)` in each head. There is one
    rate a head (gated delta nets: Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464) or one a head
    and key dimension, heads outermost (Kimi Linear, arXiv 2510.26692).

    Args:
        query, key: normalised and scaled, `(batch, length, heads, key_dim)`.
        value: `(batch, length, heads, value_dim)`.
        beta: strength of the write, `(batch, length, heads)`.
        delta, A: step sizes and decay rates; `delta * A` is the log decay.
    """

    def __init__(
        self,
        query: Float[Tensor, "batch length heads key_dim"],
        key: Float[Tensor, "batch length heads key_dim"],
        value: Float[Tensor, "batch length heads value_dim"],
        beta: Float[Tensor, "batch length heads"],
        delta: Float[Tensor, "batch length rates"],
        A: Float[Tensor, "rates 1"],
    ) -> None:
        self.query, self.key, self.value, self.beta, self.delta, self.A = alike(
            query, key, value, beta, delta, A
        )
        self._output: Tensor | None = None

    @property
    def _heads(self) -> int:
        return self.beta.shape[-1]

    def erased(self) -> Erased:
        """Of each step `beta |k|^2`, and the largest spectral norm of what multiplies a state.

        The eigenvalues of `I - beta k k^T` are 1 and, along the key, `1 - beta |k|^2`. It is
        symmetric, so its spectral norm is the largest of their magnitudes: above 1 where more than
        2 is erased, or less than 0. With one rate a head its decay times that is the norm of
        `(I - beta k k^T) diag(exp(delta A))`. With more, the slowest decay times that bounds it: of
        steps whose bound is above 1, the norms of the 64 with the largest bounds are computed.
        Steps that are not finite are left out; the norm is 0 if all are.
        """
        logs, shares = self._log_decay(slice(None)), self.beta * self.key.square().sum(-1)
        bounds = logs.amax(-1).exp() * (1 - shares).abs().clamp_min(1.0)
        bounds = torch.where(bounds.isfinite(), bounds, 0.0).flatten()
        norms, steps = bounds.topk(min(_WORST_STEPS, len(bounds)))
        above = norms > 1
        if self._rate_is_a_row and bool(above.any()):
            key = self.key.flatten(0, 2)[steps[above]].double()
            beta = self.beta.flatten()[steps[above]].double()
            kept = torch.eye(key.shape[-1], device=key.device, dtype=key.dtype)
            kept = kept - beta[:, None, None] * key.unsqueeze(-1) * key.unsqueeze(-2)
            decays = logs.flatten(0, 2)[steps[above]].double().exp()
            exact = torch.linalg.matrix_norm(kept * decays.unsqueeze(-2), ord=2)
            norms[above] = exact.to(norms.dtype)
        worst = int(norms.argmax())
        return Erased(shares, float(norms[worst]), float(shares.flatten()[steps[worst]]))

    def _log_decay(self, positions: int | slice) -> Float[Tensor, "batch ... rates_per_head"]:
        return (self.delta[:, positions] * self.A[:, 0]).unflatten(-1, (self._heads, -1))

    def _decay(self, position: int) -> Float[Tensor, "batch heads rates_per_head"]:
        return self._log_decay(position).exp()

    def _states(self) -> Iterator[Float[Tensor, "batch heads key_dim value_dim"]]:
        outputs = []
        state = self.value.new_zeros(
            self.value.shape[0], self._heads, self.key.shape[-1], self.value.shape[-1]
        )
        for t in range(self.length):
            key, beta = self.key[:, t], self.beta[:, t, :, None]
            state = state * self._decay(t).unsqueeze(-1)
            erased = torch.einsum("bhk,bhkv->bhv", key, state)
            write = beta * (self.value[:, t] - erased)
            state = state + key.unsqueeze(-1) * write.unsqueeze(-2)
            outputs.append(torch.einsum("bhk,bhkv->bhv", self.query[:, t], state))
            yield state
        self._output = torch.stack(outputs, dim=1).flatten(-2)

    def output(self) -> Float[Tensor, "batch length channels"]:
        """`y`, heads flattened into channels, before the norm and gate."""
        if self._output is None:
            for _ in self._states():
                pass
        assert self._output is not None
        return self._output

    def state_norms(self, positions: Sequence[int]) -> Float[Tensor, "batch positions rates"]:
        """Norm of the state, or of a key dimension's row of it, after each of `positions`."""
        wanted, norms = set(positions), []
        for t, state in enumerate(self._states()):
            if t in wanted:
                rows = state.square().sum(-1)
                per_head = rows if self._rate_is_a_row else rows.sum(-1, keepdim=True)
                norms.append(per_head.flatten(1).sqrt())
            if t == positions[-1] and t < self.length - 1:
                break
        return torch.stack(norms, dim=1)

    @property
    def _rate_is_a_row(self) -> bool:
        return self.A.shape[0] > self._heads

    def attention(
        self, query: int, rates: Sequence[int]
    ) -> Float[Tensor, "batch rates query_plus_one"]:
        """Weights of the values, found by carrying the query back through the erasures.

        A rate that is one row of a head's state gives that row's share of the head's weights.
        """
        per_head = self.A.shape[0] // self._heads
        heads = sorted({rate // per_head for rate in rates})
        column = [heads.index(rate // per_head) for rate in rates]
        carried = self.query[:, query, heads]
        if self._rate_is_a_row:
            rows = torch.as_tensor([rate % per_head for rate in rates], device=carried.device)
            carried = carried[:, column] * torch.nn.functional.one_hot(rows, per_head)
            heads = [heads[i] for i in column]
            column = list(range(len(rates)))
        weights = []
        for s in range(query, -1, -1):
            key, beta = self.key[:, s, heads], self.beta[:, s, heads]
            along = (key * carried).sum(-1)
            weights.append(beta * along)
            carried = carried - (beta * along).unsqueeze(-1) * key
            carried = carried * self._decay(s)[:, heads]
        return torch.stack(weights[::-1], dim=-1)[:, column]

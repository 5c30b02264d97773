"""Recurrences that divide what they remember by a sum of its weights: RWKV-4 and the mLSTM."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.audit._recurrence import Recurrence, alike

_NEVER = -1e38
"""Logarithm of a weight of nothing, as float32 holds it."""


class _Step(NamedTuple):
    """What one token leaves: the state beside its normaliser, and what is given."""

    norm: Float[Tensor, "batch rates"]
    output: Float[Tensor, "batch channels"]


class NormalisedRecurrence(Recurrence):
    """A state and the sum of the weights in it, which both decay alike.

    Written weights are exponentials and may be of any size, so that the state alone means nothing:
    its norm is taken beside that of its normaliser. That ratio is an average of what was written.
    """

    _output: Tensor | None = None

    @abstractmethod
    def _steps(self) -> Iterator[_Step]:
        """Token by token, kept within range by the largest weight so far."""

    def output(self) -> Float[Tensor, "batch length channels"]:
        """What the recurrence gives, before any gate or norm that follows it."""
        if self._output is None:
            self._output = torch.stack([step.output for step in self._steps()], dim=1)
        return self._output

    def state_norms(self, positions: Sequence[int]) -> Float[Tensor, "batch positions rates"]:
        """Norm of the state over that of its normaliser, after each of `positions`."""
        wanted, norms, outputs = set(positions), [], []
        for t, step in enumerate(self._steps()):
            outputs.append(step.output)
            if t in wanted:
                norms.append(step.norm)
            if t == positions[-1] and t < self.length - 1:
                break
        if len(outputs) == self.length:
            self._output = torch.stack(outputs, dim=1)
        return torch.stack(norms, dim=1)

    def _log_decay(self) -> Float[Tensor, "batch length rates"]:
        return self.delta * self.A[:, 0]


class WeightedAverage(NormalisedRecurrence):
    """RWKV-4: an average of all values so far, with a bonus for the present one.

    With `w = -delta A`, one constant per channel,
    `y_t = (a + e^(u + k_t) v_t) / (b + e^(u + k_t))`, where
    `a = sum over s < t of e^(k_s - (t - 1 - s) w) v_s` and `b` is the same sum without `v_s`.
    Source: Peng et al. 2023 (arXiv 2305.13048).

    Args:
        key, value: `(batch, length, channels)`.
        bonus: `u`, one per channel.
        A: minus the decay, one per channel.
    """

    def __init__(
        self,
        key: Float[Tensor, "batch length channels"],
        value: Float[Tensor, "batch length channels"],
        bonus: Float[Tensor, " channels"],
        A: Float[Tensor, "channels 1"],
    ) -> None:
        self.key, self.value, self.bonus, self.A = alike(key, value, bonus, A)
        self.delta = torch.ones_like(self.key)

    @property
    def state_size(self) -> int:
        """One per channel, beside its normaliser."""
        return 1

    def without_state(self) -> Float[Tensor, "batch length channels"]:
        """The present value alone."""
        return self.value

    def _steps(self) -> Iterator[_Step]:
        decay = self.A[:, 0]
        total, weight = torch.zeros_like(self.key[:, 0]), torch.zeros_like(self.key[:, 0])
        largest = torch.full_like(total, _NEVER)
        for key, value in zip(self.key.unbind(1), self.value.unbind(1), strict=True):
            now = key + self.bonus
            most = torch.maximum(largest, now)
            before, own = torch.exp(largest - most), torch.exp(now - most)
            output = (before * total + own * value) / (before * weight + own)
            most = torch.maximum(largest + decay, key)
            before, own = torch.exp(largest + decay - most), torch.exp(key - most)
            total, weight, largest = before * total + own * value, before * weight + own, most
            yield _Step((total / weight).abs(), output)

    def attention(
        self, query: int, rates: Sequence[int]
    ) -> Float[Tensor, "batch rates query_plus_one"]:
        """The weights of the average; they add up to 1."""
        key, decay = self.key[:, : query + 1, rates], self.A[rates, 0]
        age = torch.arange(query - 1, -2, -1, device=key.device, dtype=key.dtype)
        logits = key + age.clamp_min(0).unsqueeze(-1) * decay
        logits[:, query] += self.bonus[rates]
        return logits.softmax(1).movedim(1, -1)


class MatrixMemory(NormalisedRecurrence):
    """The mLSTM: `C_t = f_t C_{t-1} + i_t k_t v_t^T`, `n_t = f_t n_{t-1} + i_t k_t` in each head.

    `y_t = C_t^T q_t / max(|n_t . q_t|, 1)`. The logarithm of the forget gate is `delta A` with
    `A = -1`; the input gate is an exponential. Source: Beck et al. 2024 (arXiv 2405.04517).

    Args:
        query: scaled, and `key`: `(batch, length, heads, key_dim)`.
        value: `(batch, length, heads, value_dim)`.
        log_input: logarithm of the input gate, `(batch, length, heads)`.
        delta: minus the logarithm of the forget gate, of the same shape.
        epsilon: added to the denominator, in units of the largest weight so far.
    """

    def __init__(
        self,
        query: Float[Tensor, "batch length heads key_dim"],
        key: Float[Tensor, "batch length heads key_dim"],
        value: Float[Tensor, "batch length heads value_dim"],
        log_input: Float[Tensor, "batch length heads"],
        delta: Float[Tensor, "batch length heads"],
        epsilon: float,
    ) -> None:
        self.query, self.key, self.value, self.log_input, self.delta = alike(
            query, key, value, log_input, delta
        )
        self.A = -torch.ones(delta.shape[-1], 1, device=delta.device, dtype=self.delta.dtype)
        self._epsilon = epsilon

    @property
    def state_size(self) -> int:
        """States per channel of the value: the key dimension."""
        return self.key.shape[-1]

    def without_state(self) -> Float[Tensor, "batch length channels"]:
        """Nothing: there is no way round the state."""
        return torch.zeros_like(self.value).flatten(-2)

    def _steps(self) -> Iterator[_Step]:
        log_decay, log_input = self._log_decay(), self.log_input
        batch, _, heads, key_dim = self.key.shape
        memory = self.value.new_zeros(batch, heads, key_dim, self.value.shape[-1])
        normaliser = self.key.new_zeros(batch, heads, key_dim)
        largest = self.delta.new_zeros(batch, heads)
        for t in range(self.length):
            kept = log_decay[:, t] + largest
            largest = torch.maximum(kept, log_input[:, t])
            keep = torch.exp(kept - largest).unsqueeze(-1)
            write = torch.exp(log_input[:, t] - largest).unsqueeze(-1) * self.key[:, t]
            memory = keep.unsqueeze(-1) * memory + write.unsqueeze(-1) * self.value[:, t, :, None]
            normaliser = keep * normaliser + write
            read = torch.einsum("bhk,bhkv->bhv", self.query[:, t], memory)
            weight = (self.query[:, t] * normaliser).sum(-1).abs()
            weight = torch.maximum(weight, torch.exp(-largest)) + self._epsilon
            size = memory.flatten(-2).norm(dim=-1) / normaliser.norm(dim=-1).clamp_min(1e-30)
            yield _Step(size, (read / weight.unsqueeze(-1)).flatten(-2))

    def attention(
        self, query: int, rates: Sequence[int]
    ) -> Float[Tensor, "batch rates query_plus_one"]:
        """Weights of the values, normalised as the layer does."""
        log_decay = self._log_decay()[:, : query + 1, rates]
        kept = log_decay.sum(1, keepdim=True) - log_decay.cumsum(1)
        logits = self.log_input[:, : query + 1, rates] + kept
        largest = torch.maximum(logits.amax(1), log_decay.sum(1))
        along = (self.key[:, : query + 1, rates] * self.query[:, query, None, rates]).sum(-1)
        weights = torch.exp(logits - largest.unsqueeze(1)) * along
        total = torch.maximum(weights.sum(1).abs(), torch.exp(-largest)) + self._epsilon
        return (weights / total.unsqueeze(1)).movedim(1, -1)

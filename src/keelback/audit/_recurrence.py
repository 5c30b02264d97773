"""What a layer's recurrence was given on one forward pass, and what can be read off it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from keelback.scan import selective_scan


class Erased(NamedTuple):
    """What steps erase of that which a state holds along their keys.

    Attributes:
        shares: of each step: 1 replaces it, 2 reflects it.
        growth: the largest factor by which a step multiplies a state's norm.
        worst: the share of that step.
    """

    shares: Float[Tensor, "batch length heads"]
    growth: float
    worst: float


class Recurrence(ABC):
    """The inputs of one layer's recurrence over one batch of sequences.

    A layer forgets at a number of *rates*: one per channel in Mamba, one per head in Mamba-2 and in
    gated delta nets, one per key dimension in Kimi's delta attention, one in all in keelback's
    selective SSM. Rate `r` multiplies state `n` by `exp(delta[b, t, r] A[r, n])` at token `t`.

    Positions are in the order of the scan. Where that is not the order of the layer's input, as in
    the second direction of a bidirectional layer, `order` says where each comes from.

    Examples:
        >>> from keelback.models import MambaLanguageModelConfig
        >>> model = MambaLanguageModelConfig(vocab_size=40, d_model=16, n_layers=1).build()
        >>> seen = []
        >>> with watching(find_layers(model), lambda layer, x, own: seen.append(own)):
        ...     _ = model(torch.randint(40, (1, 20)))
        >>> seen[0].length, seen[0].state_size
        (20, 16)
    """

    delta: Float[Tensor, "batch length rates"]
    """Step sizes, after softplus and clamping."""
    A: Float[Tensor, "rates state"]
    """Continuous-time decay rates; the state axis is 1 where all states of a rate decay alike."""
    order: Int[Tensor, " length"] | None = None
    """Where each position of the scan lies in the layer's input; `None` where it is the same."""

    @property
    def length(self) -> int:
        """Tokens in each sequence."""
        return self.delta.shape[1]

    @property
    @abstractmethod
    def state_size(self) -> int:
        """States per channel of what is written."""

    def in_order(self, x: Shaped[Tensor, "batch length ..."]) -> Shaped[Tensor, "batch length ..."]:
        """`x`, which is in the order of the layer's input, in that of the scan."""
        return x if self.order is None else x[:, self.order.to(x.device)]

    def out_of_order(
        self, y: Shaped[Tensor, "batch length ..."]
    ) -> Shaped[Tensor, "batch length ..."]:
        """`y`, which is in the order of the scan, in that of the layer's input."""
        if self.order is None:
            return y
        inverse = torch.empty_like(self.order)
        inverse[self.order] = torch.arange(len(self.order), device=self.order.device)
        return y[:, inverse.to(y.device)]

    def erased(self) -> Erased | None:
        """What the steps erase, or None where none does."""
        return None

    @abstractmethod
    def output(self) -> Float[Tensor, "batch length channels"]:
        """What the recurrence gives, before any gate or norm that follows it."""

    @abstractmethod
    def without_state(self) -> Float[Tensor, "batch length channels"]:
        """What it would give if its state were always zero: the skip connection, or nothing."""

    @abstractmethod
    def state_norms(self, positions: Sequence[int]) -> Float[Tensor, "batch positions rates"]:
        """Norm of the state after each of the ascending `positions`.

        Where several channels share a rate, the root mean square of their norms.
        """

    @abstractmethod
    def attention(
        self, query: int, rates: Sequence[int]
    ) -> Float[Tensor, "batch rates query_plus_one"]:
        """Weight of each earlier input, and its own, in the output at position `query`.

        `y[b, query, channel of r] = sum over s <= query of attention[b, r, s] x[b, s]`, `x` being
        the value that the layer writes (source: arXiv 2502.01473, Section 3, for the selective
        SSM; the delta rule's weights include what later tokens erased).
        """


class MatrixRecurrence(Recurrence):
    """One whose state is a matrix in each head, and all that the output comes from."""

    key: Float[Tensor, "batch length heads key_dim"]
    value: Float[Tensor, "batch length heads value_dim"]

    @property
    def state_size(self) -> int:
        """States per channel of the value: the key dimension."""
        return self.key.shape[-1]

    def without_state(self) -> Float[Tensor, "batch length channels"]:
        """Nothing: there is no way round the state."""
        return torch.zeros_like(self.value).flatten(-2)


class ScannedRecurrence(MatrixRecurrence):
    """One whose output and states a scan of the library computes, from the states before."""

    _output: Tensor | None = None

    @abstractmethod
    def _scan(self, window: slice, states: Tensor | None) -> tuple[Tensor, Tensor]:
        """Output at the positions of a window, and the states after it."""

    def output(self) -> Float[Tensor, "batch length channels"]:
        """`y`, heads flattened into channels, before the norm and gate."""
        if self._output is None:
            self._output = self._scan(slice(None), None)[0].flatten(-2)
        return self._output


class SelectiveRecurrence(Recurrence):
    """`h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t`, `y_t = C_t . h_t + D u_t`.

    Source: Gu and Dao 2023 (arXiv 2312.00752), Algorithm 2; with one rate a head, Dao and Gu 2024
    (arXiv 2405.21060). Everything is kept in at least float32.
    """

    def __init__(
        self,
        u: Float[Tensor, "batch length channels"],
        delta: Float[Tensor, "batch length rates"],
        A: Float[Tensor, "rates state"],
        B: Float[Tensor, "batch length groups state"],
        C: Float[Tensor, "batch length groups state"],
        D: Float[Tensor, " channels"] | None = None,
    ) -> None:
        self.u, self.delta, self.A, self.B, self.C = alike(u, delta, A, B, C)
        self.D = None if D is None else D.detach().to(self.u.dtype)
        self._output: Tensor | None = None

    @property
    def state_size(self) -> int:
        """States per channel."""
        return self.B.shape[-1]

    @property
    def _channels_per_rate(self) -> int:
        return self.u.shape[-1] // self.A.shape[0]

    def _scan(
        self, window: slice, initial_state: Tensor | None
    ) -> tuple[Float[Tensor, "batch window channels"], Float[Tensor, "batch channels state"]]:
        delta, A = self.delta[:, window], self.A
        if self._channels_per_rate > 1:
            delta = delta.repeat_interleave(self._channels_per_rate, dim=-1)
            A = A.repeat_interleave(self._channels_per_rate, dim=0)
        result = selective_scan(
            self.u[:, window],
            delta,
            A.expand(-1, self.B.shape[-1]).contiguous(),
            self.B[:, window],
            self.C[:, window],
            self.D,
            initial_state=initial_state,
            return_last_state=True,
        )
        assert isinstance(result, tuple)
        return result

    def output(self) -> Float[Tensor, "batch length channels"]:
        """`y`, before the gate `silu(z)`."""
        if self._output is None:
            self._output = self._scan(slice(None), None)[0]
        return self._output

    def without_state(self) -> Float[Tensor, "batch length channels"]:
        """`D u`."""
        return torch.zeros_like(self.u) if self.D is None else self.D * self.u

    def _states(self, positions: Sequence[int]) -> Iterator[Float[Tensor, "batch channels state"]]:
        outputs = []
        for y, state in pausing(self._scan, positions):
            outputs.append(y)
            yield state
        if outputs and positions[-1] + 1 == self.length:
            self._output = torch.cat(outputs, dim=1)

    def state_norms(self, positions: Sequence[int]) -> Float[Tensor, "batch positions rates"]:
        """Norm of the state after each of the ascending `positions`."""
        squares = [state.square().sum(-1) for state in self._states(positions)]
        by_rate = torch.stack(squares, dim=1).unflatten(-1, (self.A.shape[0], -1))
        return by_rate.mean(-1).sqrt()

    def attention(
        self, query: int, rates: Sequence[int]
    ) -> Float[Tensor, "batch rates query_plus_one"]:
        """`delta_s C_t . (exp(A sum_{s<r<=t} delta_r) * B_s)` for `t = query`."""
        chosen = torch.as_tensor(rates, device=self.delta.device)
        delta = self.delta[:, : query + 1, chosen]
        elapsed = delta.sum(1, keepdim=True) - delta.cumsum(1)
        products = self._keys_times_query(query, chosen)
        if self.A.shape[1] == 1:
            weights = torch.exp(elapsed * self.A[chosen, 0]) * products.sum(-1)
        else:
            weights = (torch.exp(elapsed.unsqueeze(-1) * self.A[chosen]) * products).sum(-1)
        return (weights * delta).movedim(1, -1)

    def _keys_times_query(
        self, query: int, rates: Tensor
    ) -> Float[Tensor, "batch query_plus_one rates_or_one state"]:
        B, C = self.B[:, : query + 1], self.C[:, query, None]
        if B.shape[2] > 1:
            group = rates // (self.A.shape[0] // B.shape[2])
            B, C = B[:, :, group], C[:, :, group]
        return B * C


def pausing(
    scan: Callable[[slice, Any], tuple[Tensor, Any]], positions: Sequence[int]
) -> Iterator[tuple[Tensor, Any]]:
    """Outputs since the last pause, and states, of a scan that pauses after each of `positions`.

    Args:
        scan: of a window of positions from the states before it, `None` at the start.
        positions: ascending.
    """
    states, start = None, 0
    for position in positions:
        y, states = scan(slice(start, position + 1), states)
        start = position + 1
        yield y, states


def alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All detached and in one type, which is at least float32."""
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return tuple(x.detach().to(dtype) for x in tensors)

"""What is measured of one layer while the model runs, reduced as it streams by."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keelback.audit._distribution import LogHistogram
from keelback.audit._recurrence import Recurrence
from keelback.audit._spans import Span
from keelback.errors import InputError

ATTENTION_RATES = 8
ATTENTION_QUERIES = 6
MAP_SIZE = 64
_LEAST_STEP = 2.0**-60
ROUNDED_KEY = 0.01
"""How far rounding a key of norm 1 in half precision may push what a step erases, and its norm."""
_ROUNDING = 1e-7
"""Spread of the opening, beside its size, below which it is the same at every token."""


class LayerStatistics:
    """Step sizes, states, gates and attention of one layer, summed over sequences.

    Nothing of size (length, channels, state) is ever kept: a pass over a sequence leaves sums by
    bin of positions, by rate, and by token.

    Args:
        A: the layer's state matrix.
        span: which positions there are.
        n_tokens: how many different tokens the text has; gates are averaged by token.
        features: directions in the layer's input, `(features, d_model)`, to compare the gate with.
    """

    def __init__(
        self,
        A: Float[Tensor, "rates state"],
        span: Span,
        n_tokens: int,
        features: Float[Tensor, "features d_model"] | None = None,
    ) -> None:
        rates = A.shape[0]
        self.A, self.span = A, span
        self.sequences = 0
        self.steps = LogHistogram()
        self.step_sum = torch.zeros(len(span.bins()), rates, dtype=torch.float64)
        self.step_square_within = torch.zeros(rates, dtype=torch.float64)
        self.step_least = torch.full((rates,), float("inf"))
        self.step_greatest = torch.full((rates,), float("-inf"))
        self.positions = span.sampled_positions()
        self.state_sum = torch.zeros(len(self.positions), rates, dtype=torch.float64)
        self.state_size = 0
        self.restarted = RestartedStatistics(self.positions, rates)
        self.erasure = Erasure()
        self.gates = GateByToken(n_tokens)
        self.alignment = None if features is None else Alignment(features)
        self.reach = AttentionReach(span, rates)

    def update(
        self,
        recurrence: Recurrence,
        hidden_states: Float[Tensor, "batch length d_model"],
        tokens: Int[Tensor, "batch length"] | None,
    ) -> None:
        """Take in one forward pass; `tokens` are indices into the text's different tokens.

        Both inputs are in the order of the layer's input, whatever that of its scan is.
        """
        delta = recurrence.delta
        self.state_size = recurrence.state_size
        log2 = torch.log2(delta.clamp_min(_LEAST_STEP))
        self.sequences += len(delta)
        self.steps.add(delta)
        for i, bin_ in enumerate(self.span.bins()):
            self.step_sum[i] += delta[:, bin_].sum((0, 1)).double().cpu()
        self.step_square_within += delta[:, self.span.within].square().sum((0, 1)).double().cpu()
        self.step_least = torch.minimum(self.step_least, delta.amin((0, 1)).cpu())
        self.step_greatest = torch.maximum(self.step_greatest, delta.amax((0, 1)).cpu())
        self.state_sum += recurrence.state_norms(self.positions).double().sum(0).cpu()
        self.erasure.update(recurrence)
        opening = log2.mean(-1)
        if tokens is not None:
            self.gates.update(opening, recurrence.in_order(tokens))
        if self.alignment is not None:
            self.alignment.update(opening, recurrence.in_order(hidden_states.flatten(1, -2)))
        self.reach.update(recurrence)

    def step_mean(self, part: slice) -> Float[Tensor, " rates"]:
        """Mean step size of each rate over the bins that lie inside `part`; NaN if none does."""
        chosen = [
            i
            for i, bin_ in enumerate(self.span.bins())
            if part.start <= bin_.start and bin_.stop <= part.stop
        ]
        tokens = sum(self.span.bins()[i].stop - self.span.bins()[i].start for i in chosen)
        return self.step_sum[chosen].sum(0) / (tokens * self.sequences or float("nan"))

    def step_deviation_within(self) -> Float[Tensor, " rates"]:
        """Standard deviation over tokens of each rate's step size, within the training length."""
        tokens = self.span.within.stop * self.sequences
        mean = self.step_mean(self.span.within)
        return (self.step_square_within / tokens - mean.square()).clamp_min(0.0).sqrt()

    def state_mean(self) -> Float[Tensor, "positions rates"]:
        """Mean norm of each rate's state at the sampled positions."""
        return self.state_sum / self.sequences


class RestartedStatistics:
    """Step sizes and states of the same tokens in contexts that training knew.

    What differs between these and the statistics of the whole sequence is what its length does; how
    the text changes along the way cancels.
    """

    def __init__(self, positions: Sequence[int], rates: int) -> None:
        self._positions = positions
        self.step_sum = torch.zeros(rates, dtype=torch.float64)
        self.tokens = 0
        self.state_sum = torch.zeros(len(positions), rates, dtype=torch.float64)
        self.count = torch.zeros(len(positions), dtype=torch.float64)

    def update(self, recurrence: Recurrence, windows: Sequence[tuple[slice, slice]]) -> None:
        """Take in one pass over windows of the sequence, one per row of the batch.

        Args:
            recurrence: of the windows.
            windows: the positions of each in the whole sequence, and those of them that count.
        """
        wanted: dict[int, list[tuple[int, int]]] = {}
        for row, (whole, counted) in enumerate(windows):
            start = counted.start - whole.start
            own = recurrence.delta[row, start : counted.stop - whole.start]
            self.step_sum += own.sum(0).double().cpu()
            self.tokens += len(own)
            for i, position in enumerate(self._positions):
                if counted.start <= position < counted.stop:
                    wanted.setdefault(position - whole.start, []).append((row, i))
        if not wanted:
            return
        local = sorted(wanted)
        norms = recurrence.state_norms(local).double().cpu()
        for k, position in enumerate(local):
            for row, i in wanted[position]:
                self.state_sum[i] += norms[row, k]
                self.count[i] += 1

    def step_mean(self) -> Float[Tensor, " rates"]:
        """Mean step size of each rate; NaN if nothing was restarted."""
        return self.step_sum / (self.tokens or float("nan"))

    def state_mean(self) -> Float[Tensor, "positions rates"]:
        """Mean norm of each rate's state at the sampled positions; NaN where there was none."""
        return self.state_sum / torch.where(self.count > 0, self.count, torch.nan).unsqueeze(-1)


class Erasure:
    """What the steps of a delta rule erase along their keys, and what that makes of a state.

    `growth` is the largest factor by which a step multiplies a state's norm, and `worst` what that
    step erases; NaN where nothing is erased.
    """

    def __init__(self) -> None:
        self.shares = LogHistogram()
        self.growth = self.worst = float("nan")
        self._steps = self._reflecting = 0

    def update(self, recurrence: Recurrence) -> None:
        """Take in one pass."""
        erased = recurrence.erased()
        if erased is None:
            return
        self.shares.add(erased.shares)
        self._steps += int(erased.shares.isfinite().sum())
        self._reflecting += int((erased.shares > 1 + ROUNDED_KEY).sum())
        if not self.growth >= erased.growth:  # NaN at first.
            self.growth, self.worst = erased.growth, erased.worst

    def to_json(self) -> dict[str, float]:
        """The shares, and how many of them are above 1; no median where some are below 0."""
        shares, steps = self.shares, self._steps
        return {
            "min": shares.least if steps else float("nan"),
            "median": shares.quantile(0.5) if shares.least >= 0 else float("nan"),
            "max": shares.greatest if steps else float("nan"),
            "above_1": self._reflecting / steps if steps else float("nan"),
            "growth": self.growth,
        }


class GateByToken:
    """How far the gate opens, by token: the mean binary logarithm of the step size over rates."""

    def __init__(self, n_tokens: int) -> None:
        self.count = torch.zeros(n_tokens, dtype=torch.float64)
        self.total = torch.zeros(n_tokens, dtype=torch.float64)
        self.square = 0.0

    def update(
        self, opening: Float[Tensor, "batch length"], tokens: Int[Tensor, "batch length"]
    ) -> None:
        """Take in one pass."""
        values, which = opening.flatten().double().cpu(), tokens.flatten().cpu()
        self.count.index_add_(0, which, torch.ones_like(values))
        self.total.index_add_(0, which, values)
        self.square += float(values.square().sum())

    @property
    def mean(self) -> Float[Tensor, " tokens"]:
        """Mean opening of each token; NaN for one that never came."""
        return self.total / self.count

    @property
    def overall(self) -> tuple[float, float]:
        """Mean and standard deviation of the opening over all tokens of the text."""
        count = float(self.count.sum())
        mean = float(self.total.sum()) / count
        return mean, max(self.square / count - mean * mean, 0.0) ** 0.5

    @property
    def varies(self) -> bool:
        """Whether the opening is not the same at every token, up to rounding."""
        if not bool(self.count.any()):
            return False
        mean, deviation = self.overall
        return deviation > _ROUNDING * max(abs(mean), 1.0)

    def selectivity(self) -> float:
        """Share of the opening's variance that the token alone explains, from 0 to 1.

        Adjusted for the number of different tokens, so that it is 0 on average where the token
        tells nothing (Ezekiel's adjusted R squared). NaN for a model that is not given tokens.
        """
        if not bool(self.count.any()):
            return float("nan")
        mean, deviation = self.overall
        seen = self.count > 0
        count, different = float(self.count.sum()), int(seen.sum())
        total = deviation**2 * count
        if not self.varies or count <= different:
            return 0.0
        between = float((self.count[seen] * (self.mean[seen] - mean).square()).sum())
        left = (1 - between / total) * (count - 1) / (count - different)
        return min(max(1 - left, 0.0), 1.0)


class Alignment:
    """Correlation over tokens of the gate's opening with the layer's input along directions."""

    def __init__(self, features: Float[Tensor, "features d_model"]) -> None:
        self._features = features.float()
        self._moments = torch.zeros(len(features), 5, dtype=torch.float64)
        self._count = 0

    def update(
        self,
        opening: Float[Tensor, "batch length"],
        hidden_states: Float[Tensor, "batch length d_model"],
    ) -> None:
        """Take in one pass.

        Raises:
            InputError: directions of another width than the layer's input.
        """
        given, needed = self._features.shape[-1], hidden_states.shape[-1]
        if given != needed:
            raise InputError(
                f"the feature directions have {given} entries; this model's layers read {needed}"
            )
        x = (hidden_states.float() @ self._features.to(hidden_states.device).T).flatten(0, 1)
        x, y = x.double().cpu(), opening.flatten().double().cpu().unsqueeze(-1)
        moments = (x, y.expand_as(x), x * x, (y * y).expand_as(x), x * y)
        self._moments += torch.stack([m.sum(0) for m in moments], dim=-1)
        self._count += len(x)

    def correlation(self) -> Float[Tensor, " features"]:
        """Pearson's correlation for each direction; 0 where either side does not vary."""
        x, y, xx, yy, xy = (self._moments / self._count).unbind(-1)
        spread = ((xx - x * x) * (yy - y * y)).clamp_min(0.0).sqrt()
        return torch.where(spread > 0, (xy - x * y) / spread, 0.0)


class AttentionReach:
    """How far back the layer looks, from the attention view, and the view's first corner."""

    def __init__(self, span: Span, rates: int) -> None:
        self.rates = torch.linspace(0, rates - 1, min(rates, ATTENTION_RATES)).long().tolist()
        first = min(8, span.length)
        spread = torch.logspace(
            torch.log2(torch.tensor(float(first))).item(),
            torch.log2(torch.tensor(float(span.length))).item(),
            ATTENTION_QUERIES,
            base=2.0,
        )
        self.queries: list[int] = sorted({round(q) - 1 for q in spread.tolist()})
        self.distance = torch.zeros(len(self.queries), dtype=torch.float64)
        self.reach = torch.zeros(len(self.queries), dtype=torch.float64)
        self.map: Float[Tensor, "query key"] | None = None
        self._passes = 0

    def update(self, recurrence: Recurrence) -> None:
        """Take in one pass; the map is of the first sequence alone."""
        for i, query in enumerate(self.queries):
            weights = recurrence.attention(query, self.rates).abs().mean((0, 1)).double().cpu()
            distance, reach = distance_and_reach(weights)
            self.distance[i] += distance
            self.reach[i] += reach
        self._passes += 1
        if self.map is None:
            self.map = attention_map(recurrence, self.rates)

    def means(self) -> list[tuple[int, float, float]]:
        """For each query position: mean distance, and distance that holds 90 % of the weight."""
        n = self._passes
        return [
            (query, float(self.distance[i] / n), float(self.reach[i] / n))
            for i, query in enumerate(self.queries)
        ]


def distance_and_reach(weights: Float[Tensor, " keys"]) -> tuple[float, float]:
    """Mean distance in tokens from the last key, and the distance within which 90 % lies."""
    mass = weights.flip(0)
    total = float(mass.sum())
    if not total > 0:
        return 0.0, 0.0
    distances = torch.arange(len(mass), dtype=mass.dtype)
    cumulated = mass.cumsum(0)
    reach = int(torch.searchsorted(cumulated, torch.tensor(0.9 * total, dtype=mass.dtype)))
    return float((mass * distances).sum()) / total, float(min(reach, len(mass) - 1))


def attention_map(recurrence: Recurrence, rates: Sequence[int]) -> Float[Tensor, "query key"]:
    """Absolute weights between the first tokens, averaged over rates, each row summing to one."""
    size = min(MAP_SIZE, recurrence.length)
    corner = torch.zeros(size, size)
    for query in range(size):
        row = recurrence.attention(query, rates)[0].abs().mean(0).float().cpu()
        corner[query, : query + 1] = row / row.sum().clamp_min(torch.finfo(row.dtype).tiny)
    return corner

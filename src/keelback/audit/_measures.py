"""From the sums that a pass leaves to the measures of a layer and of its channels."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from keelback.audit._layers import Layer
from keelback.audit._replay import NOT_COMPARED, Replay
from keelback.audit._statistics import LayerStatistics

DEAD_SHARE_OF_MEDIAN = 1e-4
"""A rate is dead if its state stays below this share of the layer's median state norm."""
SATURATED_HORIZON = 1.0
"""A rate is saturated if it forgets within this many tokens: it keeps no memory."""


@dataclass(frozen=True)
class LayerMeasures:
    """The measures of one layer, over rates (see `Recurrence`) and their states.

    A *horizon* is the number of tokens in which a state falls to 1/e if nothing is written, at the
    text's mean step size: `1 / (mean delta * -A)`; infinite where A is not negative. A rate's
    horizon is that of its slowest state.

    Examples:
        >>> from keelback.models import MambaLanguageModelConfig
        >>> model = MambaLanguageModelConfig(vocab_size=40, d_model=16, n_layers=1).build()
        >>> measures = audit(model, tokens=torch.randint(40, (400,)), train_length=40).measures[0]
        >>> measures.layer.index, measures.longest_horizon.shape
        (0, torch.Size([32]))
    """

    layer: Layer
    statistics: LayerStatistics
    replay: Replay = NOT_COMPARED

    @property
    def spectral_abscissa(self) -> float:
        """The largest entry of A: below 0 every state decays."""
        return float(self.statistics.A.max())

    @cached_property
    def step_mean(self) -> Float[Tensor, " rates"]:
        """Mean step size over the whole text."""
        return self.statistics.step_mean(slice(0, self.statistics.span.length))

    @cached_property
    def horizons(self) -> Float[Tensor, "rates state"]:
        """Horizon of every state, in tokens."""
        return horizon(self.statistics.A, self.step_mean)

    @property
    def longest_horizon(self) -> Float[Tensor, " rates"]:
        """Horizon of each rate."""
        return self.horizons.amax(-1)

    @property
    def decay(self) -> Float[Tensor, "rates state"]:
        """Factor by which a token shrinks a state, at the mean step size."""
        return torch.exp(self.step_mean.unsqueeze(-1) * self.statistics.A.double().cpu())

    @property
    def beyond_train_length(self) -> float:
        """Share of rates whose horizon exceeds the training length."""
        return _share(self.longest_horizon > self.statistics.span.train_length)

    @property
    def saturated(self) -> Tensor:
        """Which rates keep no memory from one token to the next."""
        return self.longest_horizon < SATURATED_HORIZON

    @property
    def dead(self) -> Tensor:
        """Which rates' states stay at next to nothing beside the others' at the same positions."""
        norms = self.statistics.state_mean()
        beside = norms / norms.median(-1, keepdim=True).values
        return torch.nan_to_num(beside).amax(0) <= DEAD_SHARE_OF_MEDIAN

    @property
    def settled_norm(self) -> Float[Tensor, " rates"]:
        """Mean state norm of each rate in the later half of the training length."""
        span, norms = self.statistics.span, self.statistics.state_mean()
        positions = torch.tensor(self.statistics.positions)
        settled = (positions >= span.settled.start) & (positions < span.settled.stop)
        return norms[settled].mean(0)

    @cached_property
    def state_growth(self) -> Float[Tensor, " rates"]:
        """State norm beyond the training length over that in contexts that training knew.

        At the same positions, so that the text cancels; NaN where there are none.
        """
        full, restarted = self.statistics.state_mean(), self.statistics.restarted
        both = restarted.count > 0
        with_length, without = full[both].mean(0), restarted.state_mean()[both].mean(0)
        return with_length / without.clamp_min(torch.finfo(without.dtype).tiny)

    @property
    def growth_exponent(self) -> float:
        """Slope of the logarithm of the median state norm against that of the position.

        Over the settled positions and those beyond: 0 for states that have levelled off, 0.5 for a
        random walk, 1 for a sum that drifts.
        """
        positions = torch.tensor(self.statistics.positions, dtype=torch.float64)
        settled = positions >= self.statistics.span.settled.start
        norms = self.statistics.state_mean()[settled].median(-1).values
        x, y = torch.log(positions[settled] + 1), torch.log(norms.clamp_min(1e-300))
        x, y = x - x.mean(), y - y.mean()
        slope = float((x * y).sum() / (x * x).sum()) if len(x) > 1 else 0.0
        return slope if torch.isfinite(norms).all() else float("inf")

    @property
    def overflow_position(self) -> int | None:
        """The first sampled position at which a state is not finite."""
        finite = torch.isfinite(self.statistics.state_mean()).all(-1)
        return (
            None if bool(finite.all()) else self.statistics.positions[int((~finite).int().argmax())]
        )

    @property
    def step_shift(self) -> Float[Tensor, " rates"]:
        """Mean step size beyond the training length less that of the same tokens restarted.

        Restarted in contexts that training knew; in standard deviations over the tokens within the
        training length.
        """
        statistics = self.statistics
        difference = statistics.step_mean(statistics.span.beyond) - statistics.restarted.step_mean()
        return difference / self.statistics.step_deviation_within().clamp_min(1e-30)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what cannot be told (nothing beyond the training length) is NaN."""
        statistics, horizons = self.statistics, self.horizons.flatten()
        reach = statistics.reach.means()[-1]
        return {
            "index": self.layer.index,
            "name": self.layer.name,
            "kind": self.layer.kind,
            "rates": statistics.A.shape[0],
            "state_size": statistics.state_size,
            "spectral_abscissa": self.spectral_abscissa,
            "delta": {
                "min": statistics.steps.least,
                "median": statistics.steps.quantile(0.5),
                "max": statistics.steps.greatest,
                "p01": statistics.steps.quantile(0.01),
                "p99": statistics.steps.quantile(0.99),
                "shift": float(self.step_shift.abs().median()),
            },
            "decay": _spread(self.decay.flatten()),
            "horizon": {
                "median": _quantile(horizons, 0.5),
                "p99": _quantile(horizons, 0.99),
                "max": float(horizons.max()),
                "beyond_train_length": self.beyond_train_length,
            },
            "saturated": _share(self.saturated),
            "dead": _share(self.dead),
            "state": {
                "norm_settled": float(self.settled_norm.median()),
                "growth_median": float(self.state_growth.median()),
                "growth_max": float(self.state_growth.max()),
                "growth_exponent": self.growth_exponent,
                "overflow_position": self.overflow_position,
            },
            "erased": statistics.erasure.to_json(),
            "attention": {"mean_distance": reach[1], "reach90": reach[2]},
            "gate": {
                "selectivity": statistics.gates.selectivity()
                if statistics.gates.varies
                else float("nan"),
                "alignment": None
                if statistics.alignment is None
                else statistics.alignment.correlation().tolist(),
            },
            "replay": {
                "relative_difference": self.replay.difference,
                "worst_channel": self.replay.worst,
                "tolerance": self.replay.tolerance,
            },
        }

    def channels(self) -> Mapping[str, list[Any]]:
        """One entry per rate, in columns."""
        statistics = self.statistics
        rates = statistics.A.shape[0]
        columns = {
            "spectral_abscissa": statistics.A.amax(-1),
            "delta_min": statistics.step_least,
            "delta_mean": self.step_mean,
            "delta_max": statistics.step_greatest,
            "delta_shift": self.step_shift,
            "decay": self.decay.amax(-1),
            "horizon": self.longest_horizon,
            "state_norm": self.settled_norm,
            "state_growth": self.state_growth,
            "saturated": self.saturated,
            "dead": self.dead,
        }
        return {
            "layer": [self.layer.index] * rates,
            "rate": list(range(rates)),
            **{name: values.tolist() for name, values in columns.items()},
        }


def horizon(
    A: Float[Tensor, "rates state"], step_mean: Float[Tensor, " rates"]
) -> Float[Tensor, "rates state"]:
    """Tokens in which each state falls to 1/e: `1 / (mean delta * -A)`, infinite for A >= 0."""
    forgetting = step_mean.unsqueeze(-1) * -A.double().cpu()
    return torch.where(forgetting > 0, 1.0 / forgetting, torch.inf)


def _share(which: Tensor) -> float:
    return float(which.double().mean())


def _spread(values: Tensor) -> dict[str, float]:
    return {
        "min": float(values.min()),
        "median": float(values.median()),
        "max": float(values.max()),
    }


def _quantile(values: Tensor, share: float) -> float:
    """The least value that at least `share` of the values do not exceed; infinite values count."""
    ordered = values.sort().values
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))])

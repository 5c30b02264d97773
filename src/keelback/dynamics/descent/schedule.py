"""By what factor the step sizes of every replica are multiplied at an epoch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keelback.dynamics.descent.optimizer import Rates, Weights
from keelback.dynamics.descent.sharpness import Sharpness
from keelback.dynamics.descent.training import GatedTraining


class Schedule:
    """Constant, decaying, or largest stable step sizes; also counts the progress made.

    "stable" measures the sharpness at the epochs at which everything is measured and keeps the
    factor until the next: where the sharpness grows faster than that, by some per cent in as many
    per cent of the epochs, the bound is passed by as much.
    """

    def __init__(self, trainings: Sequence[GatedTraining], device: str, dtype: torch.dtype) -> None:
        self._name = trainings[0].schedule
        ones = torch.ones(len(trainings), device=device, dtype=torch.float64)
        self._decay = ones * torch.tensor([t.decay for t in trainings], device=device)
        self._bound = ones * torch.tensor([t.stability for t in trainings], device=device)
        self._factor = ones
        self._dtype = dtype
        self.progress: Float[Tensor, " replicas"] = torch.zeros_like(ones)

    def measure(self, sharpness: Sharpness, weights: Weights, rates: Rates) -> None:
        """Take the sharpness at these weights, where the schedule depends on it."""
        if self._name == "stable":
            found = sharpness.at(weights, rates).double()
            found = torch.where(torch.isfinite(found), found, torch.inf)
            self._factor = (self._bound / found).clamp(max=1.0)

    def rates(self, epoch: int, rates: Rates) -> Rates:
        """The step sizes of this epoch, whose step is about to be taken."""
        if self._name == "constant":
            self.progress = self.progress + 1
            return rates
        if self._name == "decaying":
            self._factor = 1 / (1 + epoch / self._decay)
        self.progress = self.progress + self._factor
        return rates.times(self._factor.to(self._dtype))

    def keep(self, replicas: Int[Tensor, " kept"]) -> None:
        """Forget all other replicas."""
        self._decay, self._bound = self._decay[replicas], self._bound[replicas]
        self._factor, self.progress = self._factor[replicas], self.progress[replicas]

"""Everything that a training under way consists of, as tensors and JSON values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from keelback.data import Split
from keelback.training._examples import Examples
from keelback.training._optimiser import ReplicaAdam, ReplicaPlateau
from keelback.training._replicas import Replicas
from keelback.training.divergence import Divergence
from keelback.training.monitor import StabilityMonitor
from keelback.training.recipe import Recipe


@dataclass
class TrainingResult:
    """What a training left: a row of the monitor per epoch, its end, the last good weights.

    Examples:
        >>> result = TrainingResult(history=[{"epoch": 0, "s_A": 0.1}], weights={})
        >>> result.divergence is None
        True
    """

    history: list[dict[str, float | int | None]]
    weights: dict[str, Tensor]
    divergence: Divergence | None = None
    accuracy: dict[str, float] = field(default_factory=dict)


@dataclass
class Tally:
    """What an epoch has summed up so far, one number a replica.

    `zeroed_steps` counts the steps whose gradient, finite itself, had a norm that overflowed, so
    that clipping left nothing of it; `norm_sum` is over the others.
    """

    loss_sum: Float[Tensor, " replicas"]
    hits: Int[Tensor, " replicas"]
    norm_sum: Float[Tensor, " replicas"]
    finished_steps: Int[Tensor, " replicas"]
    zeroed_steps: Int[Tensor, " replicas"]
    alive: Bool[Tensor, " replicas"]

    @classmethod
    def empty(cls, replicas: int, device: torch.device) -> "Tally":
        """The start of an epoch."""
        zeros = torch.zeros(replicas, device=device, dtype=torch.float64)
        counts = torch.zeros(replicas, device=device, dtype=torch.long)
        alive = torch.ones(replicas, device=device, dtype=torch.bool)
        return cls(zeros, counts, zeros.clone(), counts.clone(), counts.clone(), alive)

    def add(
        self,
        losses: Float[Tensor, " replicas"],
        hits: Int[Tensor, " replicas"],
        norms: Float[Tensor, " replicas"],
        clipped: Float[Tensor, "replicas size"],
        batch: int,
    ) -> None:
        """Take note of one step.

        A replica is dead from now on if its loss or an entry of its clipped gradient is not finite.
        """
        self.alive = self.alive & torch.isfinite(losses) & torch.isfinite(clipped).all(1)
        overflowed = torch.isinf(norms)
        self.loss_sum += torch.where(self.alive, losses.double() * batch, 0.0)
        self.hits += torch.where(self.alive, hits, 0)
        self.norm_sum += torch.where(self.alive & ~overflowed, norms, 0.0)
        self.finished_steps += self.alive
        self.zeroed_steps += self.alive & overflowed

    def mean_loss(self, size: int) -> Float[Tensor, " replicas"]:
        """Over `size` examples; NaN for the dead."""
        return torch.where(self.alive, self.loss_sum / size, torch.nan).float()

    def columns(self, size: int, learning_rate: Tensor) -> dict[str, Tensor]:
        """What the monitor logs of an epoch over `size` examples."""
        return {
            "loss": self.mean_loss(size),
            "running_accuracy": torch.where(self.alive, self.hits / size, torch.nan),
            "gradient_norm": self.norm_sum / (self.finished_steps - self.zeroed_steps).clamp(min=1),
            "zeroed_steps": self.zeroed_steps,
            "learning_rate": learning_rate,
        }


class TrainingState:
    """Replicas under way: `epoch` and `step` are what comes next, `living` the rows' numbers."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        splits: Sequence[Split],
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        self.replicas = Replicas(models, device)
        self.examples = Examples(splits, device)
        self.optimiser = ReplicaAdam(self.replicas.flat, recipe.weight_decay)
        self.plateau = ReplicaPlateau(
            torch.full((len(models),), recipe.learning_rate, device=device),
            recipe.plateau_factor,
            recipe.plateau_patience,
            recipe.plateau_threshold,
        )
        self.monitor = StabilityMonitor(self.replicas.model, self.examples.tokens)
        self.living = list(range(len(models)))
        self.epoch, self.step = 1, 0
        self.tally = Tally.empty(len(models), device)
        rows = self.monitor.rows(self.replicas.parameters)
        self.results = [TrainingResult([row], {}) for row in rows]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows alone."""
        self.replicas.keep(rows)
        for part in (self.examples, self.plateau, self.monitor):
            part.keep(rows)
        self.optimiser.keep(rows, self.replicas.flat)
        self.living = [self.living[row] for row in rows.tolist()]

    def tensors(self) -> dict[str, Tensor]:
        """Every number that the rest of the training depends on, and what has ended."""
        found = {name: getattr(holder, name) for holder, name in self._numbers()}
        for r, result in enumerate(self.results):
            found |= {f"ended.{r}.{name}": tensor for name, tensor in result.weights.items()}
        return found

    def facts(self) -> dict[str, Any]:
        """The rest of the state, as JSON values."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "optimiser_steps": self.optimiser.steps,
            "living": self.living,
            "histories": [result.history for result in self.results],
            "divergences": [
                result.divergence and asdict(result.divergence) for result in self.results
            ],
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from where `tensors()` and `facts()` were taken; the state is at its start."""
        device = self.replicas.flat.device
        self.keep(torch.tensor(facts["living"], device=device, dtype=torch.long))
        self.replicas.flat.detach().copy_(tensors["flat"])
        for holder, name in self._numbers():
            if holder is not self.replicas:
                setattr(holder, name, tensors[name].to(device))
        self.epoch, self.step = facts["epoch"], facts["step"]
        self.optimiser.steps = facts["optimiser_steps"]
        for r, result in enumerate(self.results):
            result.history = list(facts["histories"][r])
            divergence = facts["divergences"][r]
            result.divergence = Divergence(**divergence) if divergence else None
            prefix = f"ended.{r}."
            result.weights = {
                name.removeprefix(prefix): tensor.to(device)
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }

    def _numbers(self) -> list[tuple[Any, str]]:
        """Where the tensors of the state are held, each under a name of its own."""
        return [
            (self.replicas, "flat"),
            (self.optimiser, "first_moment"),
            (self.optimiser, "second_moment"),
            *((self.plateau, name) for name in ReplicaPlateau.STATE),
            *((self.tally, part.name) for part in fields(self.tally)),
        ]

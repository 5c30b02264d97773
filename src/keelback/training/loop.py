"""Training: the models of several seeds or settings as one batch, each as if it were alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from keelback.data import Split
from keelback.models import Classifier
from keelback.training._optimiser import ReplicaAdam, ReplicaPlateau, clip_by_norm
from keelback.training._replicas import Replicas
from keelback.training.divergence import Divergence, first_bad_tensor
from keelback.training.monitor import StabilityMonitor
from keelback.training.recipe import Recipe, correct, replica_losses

EpochReport = Callable[[int, int], None]
"""Called after each epoch with the epoch's number and how many replicas are still alive."""


@dataclass
class TrainingResult:
    """What a training left: a row of the monitor per epoch, its end, the last good weights."""

    history: list[dict[str, float | int | None]]
    weights: dict[str, Tensor]
    divergence: Divergence | None = None
    accuracy: dict[str, float] = field(default_factory=dict)


class _Batches:
    """The replicas' training examples; examples that all replicas share are kept once."""

    def __init__(self, splits: Sequence[Split], device: torch.device | str) -> None:
        shared = all(split is splits[0] for split in splits)
        kept = splits[:1] if shared else splits
        self.tokens = torch.stack([split.tokens for split in kept]).to(device)
        self.labels = torch.stack([split.labels for split in kept]).to(device)
        self.size = len(splits[0])
        rows = torch.zeros(len(splits), 1) if shared else torch.arange(len(splits))[:, None]
        self._rows = rows.long().to(device)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these replicas alone."""
        self._rows = self._rows[rows]

    def take(self, index: Int[Tensor, "replicas batch"]) -> tuple[Tensor, Tensor]:
        return self.tokens[self._rows, index], self.labels[self._rows, index]


def epoch_order(seed: int, epoch: int, size: int) -> Int[Tensor, " size"]:
    """The order in which an epoch visits the examples: a function of the seed and the epoch."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(size))


def train(
    models: Sequence[nn.Module],
    train_splits: Sequence[Split],
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    on_epoch: EpochReport | None = None,
) -> list[TrainingResult]:
    """Train models of one architecture side by side, as a replica axis of one computation.

    Each replica has its own data, order of examples, clipping, learning rate and end: a replica
    whose loss or gradient is not finite keeps its last good parameters, and leaves the batch at the
    end of the epoch.
    On the CPU a replica's numbers do not depend on its neighbours beyond rounding.

    Args:
        models: freshly initialised, of one architecture.
        train_splits: one a model, all of one shape; the same object where examples are shared.
        recipe: the settings they share.
        seeds: one a model; decides the order of its examples.
        device: where to train.
        on_epoch: told after each epoch, for progress.

    Returns:
        One result a model, in order. `history` has a row for the start and one for each epoch that
        the model finished or diverged in.
    """
    replicas = Replicas(models, device)
    batches = _Batches(train_splits, device)
    optimiser = ReplicaAdam(replicas.flat, recipe.weight_decay)
    plateau = ReplicaPlateau(
        torch.full((len(models),), recipe.learning_rate, device=device),
        recipe.plateau_factor,
        recipe.plateau_patience,
        recipe.plateau_threshold,
    )
    monitor = StabilityMonitor(replicas.model, batches.tokens)
    results = [TrainingResult([row], {}) for row in monitor.rows(replicas.parameters)]
    living = list(range(len(models)))
    for epoch in range(1, recipe.epochs + 1):
        orders = [epoch_order(seeds[r], epoch, batches.size) for r in living]
        order = torch.stack(orders).to(device)
        tally = _train_epoch(replicas, batches, order, optimiser, plateau, recipe)
        plateau.step(torch.where(tally.alive, tally.loss, torch.inf))
        rows = monitor.rows(replicas.parameters, epoch, tally.columns())
        goes_on = tally.alive
        if recipe.early_stop is not None:
            goes_on = goes_on & (plateau.stale_epochs < recipe.early_stop)
        for row, r in enumerate(living):
            results[r].history.append(rows[row])
            if not tally.alive[row]:
                results[r].divergence = _divergence(
                    replicas.as_model(replicas.weights(row)),
                    train_splits[r],
                    order[row].cpu(),
                    epoch,
                    int(tally.finished_steps[row]),
                    recipe,
                )
            if not goes_on[row]:
                results[r].weights = replicas.weights(row)
        if not goes_on.all():
            kept = torch.nonzero(goes_on).flatten()
            replicas.keep(kept)
            for part in (batches, plateau, monitor):
                part.keep(kept)
            optimiser.keep(kept, replicas.flat)
            living = [living[row] for row in kept.tolist()]
        if on_epoch is not None:
            on_epoch(epoch, len(living))
        if not living:
            break
    for row, r in enumerate(living):
        results[r].weights = replicas.weights(row)
    return results


def _divergence(
    model: nn.Module,
    split: Split,
    order: Int[Tensor, " size"],
    epoch: int,
    finished_steps: int,
    recipe: Recipe,
) -> Divergence:
    """What was not finite in the step after the finished ones, from the parameters before it."""
    start = finished_steps * recipe.batch_size
    batch = order[start : start + recipe.batch_size]
    device = next(model.parameters()).device
    tokens, labels = split.tokens[batch].to(device), split.labels[batch].to(device)
    tensor = first_bad_tensor(model, tokens, labels, recipe)
    return Divergence(epoch=epoch, step=finished_steps + 1, tensor=tensor)


@dataclass
class _Tally:
    """What an epoch summed up, one number a replica."""

    loss: Float[Tensor, " replicas"]
    accuracy: Float[Tensor, " replicas"]
    gradient_norm: Float[Tensor, " replicas"]
    learning_rate: Float[Tensor, " replicas"]
    finished_steps: Int[Tensor, " replicas"]
    alive: Bool[Tensor, " replicas"]

    def columns(self) -> dict[str, Tensor]:
        return {
            "loss": self.loss,
            "running_accuracy": self.accuracy,
            "gradient_norm": self.gradient_norm,
            "learning_rate": self.learning_rate,
        }


def _train_epoch(
    replicas: Replicas,
    batches: _Batches,
    order: Int[Tensor, "replicas size"],
    optimiser: ReplicaAdam,
    plateau: ReplicaPlateau,
    recipe: Recipe,
) -> _Tally:
    alive = torch.ones(len(replicas), device=order.device, dtype=torch.bool)
    loss_sum = torch.zeros(len(replicas), device=order.device)
    hits = torch.zeros(len(replicas), device=order.device, dtype=torch.long)
    norm_sum = torch.zeros_like(loss_sum)
    finished = torch.zeros_like(hits)
    chunks = torch.split(order, recipe.batch_size, dim=1)
    for index in chunks:
        tokens, labels = batches.take(index)
        logits = replicas.logits(tokens)
        losses = replica_losses(logits, labels, recipe)
        gradient, norm = clip_by_norm(replicas.gradient(losses), recipe.clip_norm)
        losses = losses.detach()
        alive = alive & torch.isfinite(losses) & torch.isfinite(norm)
        optimiser.step(gradient, plateau.learning_rate, alive)
        loss_sum += torch.where(alive, losses * index.shape[1], 0.0)
        hits += torch.where(alive, correct(logits.detach(), labels).sum(1), 0)
        norm_sum += torch.where(alive, norm, 0.0)
        finished += alive
    return _Tally(
        loss=torch.where(alive, loss_sum / order.shape[1], torch.nan),
        accuracy=torch.where(alive, hits / order.shape[1], torch.nan),
        gradient_norm=norm_sum / finished.clamp(min=1),
        learning_rate=plateau.learning_rate,
        finished_steps=finished,
        alive=alive,
    )


@torch.no_grad()
def accuracy(model: Classifier, split: Split, batch_size: int = 512) -> float:
    """The share of the split's examples that the model labels right."""
    hits = 0
    for start in range(0, len(split), batch_size):
        batch = slice(start, start + batch_size)
        hits += int(correct(model(split.tokens[batch]), split.labels[batch]).sum())
    return hits / len(split)

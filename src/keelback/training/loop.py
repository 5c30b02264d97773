"""Training: the models of several seeds or settings as one batch, each as if it were alone."""

import logging
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from keelback.data import Split
from keelback.errors import InputError
from keelback.models import SelectiveClassifier, log_gate_sensitivity
from keelback.training._examples import epoch_order
from keelback.training._optimiser import clip_by_norm
from keelback.training._state import Tally, TrainingResult, TrainingState
from keelback.training.checkpoint import (
    Checkpoint,
    StopRequest,
    stop_requests,
    training_identity,
)
from keelback.training.divergence import Divergence, first_bad_tensor
from keelback.training.place import Place
from keelback.training.recipe import Recipe, replica_losses
from keelback.training.scores import correct

EpochReport = Callable[[int, int], None]
"""Called after each epoch with the epoch's number and how many replicas are still alive."""

_log = logging.getLogger("keelback")


def train(
    models: Sequence[nn.Module],
    train_splits: Sequence[Split],
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    place: Place | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: EpochReport | None = None,
) -> list[TrainingResult]:
    """Train models of one architecture side by side, as a replica axis of one computation.

    Each replica has its own data, order of examples, clipping, learning rate and end: a replica
    whose loss or gradient has an entry that is not finite keeps its last good parameters, and
    leaves the batch at the end of the epoch. A finite gradient whose norm overflows is clipped to
    zero, as by `torch.nn.utils.clip_grad_norm_`, and the training goes on; `zeroed_steps` in the
    history counts these steps. On the CPU a replica's numbers do not depend on its neighbours
    beyond rounding.

    Args:
        models: freshly initialised, of one architecture.
        train_splits: one a model, all of one shape; the same object where examples are shared.
        recipe: the settings they share.
        seeds: one a model; decides the order of its examples.
        device: where to train, if no `place` says more.
        place: the device, its precision, and the processes that share the work.
        checkpoint: where the training is kept while it is under way. One that was stopped goes on
            from there, on the CPU to the same bits.
        on_epoch: told after each epoch, for progress.

    Returns:
        One result a model, in order. `history` has a row for the start and one for each epoch that
        the model finished or diverged in.

    Raises:
        JobError: SIGTERM came, and the training was kept in `checkpoint`.
        KeyboardInterrupt: as for SIGTERM, on SIGINT.

    Examples:
        >>> from keelback import get_task
        >>> from keelback.models import SelectiveSSMConfig
        >>> split = get_task("majority", seq_len=10, n_train=100).split("train")
        >>> model = SelectiveSSMConfig(vocab_size=2).build(torch.Generator().manual_seed(1))
        >>> [result] = train([model], [split], Recipe(epochs=2), seeds=[1])
        >>> [row["epoch"] for row in result.history]
        [0, 1, 2]
    """
    training = _Training(models, train_splits, recipe, seeds, place or Place(device))
    if checkpoint is None:
        training.run(None, None, on_epoch)
    else:
        with stop_requests() as request:
            training.run(checkpoint, request, on_epoch)
    return training.results()


class _Training:
    def __init__(
        self,
        models: Sequence[nn.Module],
        splits: Sequence[Split],
        recipe: Recipe,
        seeds: Sequence[int],
        place: Place,
    ) -> None:
        if recipe.bound_penalty and not isinstance(models[0], SelectiveClassifier):
            raise InputError(
                "bound_penalty is for the model selective-ssm, whose bound it is, not "
                f"{type(models[0]).__name__}"
            )
        self._splits, self._recipe, self._seeds, self._place = splits, recipe, seeds, place
        self._state = TrainingState(models, splits, recipe, place.device)

    def run(
        self, checkpoint: Checkpoint | None, stop: StopRequest | None, on_epoch: EpochReport | None
    ) -> None:
        """Train to the end, from where `checkpoint` was left if it was."""
        state, identity = self._state, ""
        if checkpoint is not None:
            identity = training_identity(state, self._splits, self._recipe, self._seeds)
            kept = checkpoint.read(identity)
            if not self._place.any(kept is None) and kept is not None:
                state.restore(*kept)
                _log.info("going on from %s: epoch %d", checkpoint.path, state.epoch)
        while state.living and state.epoch <= self._recipe.epochs:
            self._epoch(stop)
            if checkpoint is not None and stop is not None and stop:
                self._keep(checkpoint, identity)
                stop.raise_for(state.epoch, state.step)
            if checkpoint is not None and checkpoint.is_due() and self._under_way():
                self._keep(checkpoint, identity)
            if on_epoch is not None:
                on_epoch(state.epoch - 1, len(state.living))

    def results(self) -> list[TrainingResult]:
        """One a model, in order."""
        for row, r in enumerate(self._state.living):
            self._state.results[r].weights = self._state.replicas.weights(row)
        return self._state.results

    def _under_way(self) -> bool:
        return bool(self._state.living) and self._state.epoch <= self._recipe.epochs

    def _keep(self, checkpoint: Checkpoint, identity: str) -> None:
        if self._place.is_main:
            checkpoint.write(self._state, identity)

    def _epoch(self, stop: StopRequest | None) -> None:
        """Take the steps that this epoch lacks, up to a request to stop, and close the epoch."""
        state, place = self._state, self._place
        orders = [
            epoch_order(self._seeds[r], state.epoch, state.examples.size) for r in state.living
        ]
        order = torch.stack(orders).to(place.device)
        chunks = torch.split(order, self._recipe.batch_size, dim=1)
        for index in chunks[state.step :]:
            self._step(index)
            state.step += 1
            if stop is not None and stop.seen_by_any(place):
                break
        if state.step == len(chunks):
            self._close_epoch(order)

    def _step(self, index: torch.Tensor) -> None:
        state, place, recipe = self._state, self._place, self._recipe
        labels = state.examples.take_labels(index)
        with recipe.autocast(place.device):
            own = state.replicas.logits(state.examples.take_tokens(place.share(index)))
        logits = place.gather(own.to(state.replicas.flat.dtype), index.shape[1])
        losses = replica_losses(logits, labels, recipe)
        if recipe.bound_penalty:
            losses = losses + self._penalty()
        gradient = place.sum(state.replicas.gradient(losses))
        gradient, norms = clip_by_norm(
            gradient, recipe.clip_norm, getattr(torch, recipe.norm_precision)
        )
        hits = correct(logits.detach(), labels).sum(1)
        state.tally.add(losses.detach(), hits, norms, gradient, index.shape[1])
        state.optimiser.step(gradient, state.plateau.learning_rate, state.tally.alive)

    def _penalty(self) -> Float[Tensor, " replicas"]:
        """The penalty of each replica; of several processes one alone gives its gradient."""
        replicas = self._state.replicas
        assert isinstance(replicas.model, SelectiveClassifier)
        seq_len = self._splits[0].seq_len
        found = log_gate_sensitivity(replicas.model, replicas.parameters, seq_len)
        found = self._recipe.bound_penalty * found
        return found if self._place.is_main else found.detach()

    def _close_epoch(self, order: torch.Tensor) -> None:
        state, recipe, tally = self._state, self._recipe, self._state.tally
        size = order.shape[1]
        learning_rate = state.plateau.learning_rate
        state.plateau.step(torch.where(tally.alive, tally.mean_loss(size), torch.inf))
        columns = tally.columns(size, learning_rate)
        rows = state.monitor.rows(state.replicas.parameters, state.epoch, columns)
        goes_on = tally.alive
        if recipe.early_stop is not None:
            goes_on = goes_on & (state.plateau.stale_epochs < recipe.early_stop)
        for row, r in enumerate(state.living):
            result = state.results[r]
            result.history.append(rows[row])
            if not tally.alive[row]:
                result.divergence = self._divergence(row, order[row])
            if not goes_on[row]:
                result.weights = state.replicas.weights(row)
        self._place.track(rows)
        if not goes_on.all():
            state.keep(torch.nonzero(goes_on).flatten())
        state.epoch, state.step = state.epoch + 1, 0
        state.tally = Tally.empty(len(state.living), self._place.device)

    def _divergence(self, row: int, order: torch.Tensor) -> Divergence:
        """What was not finite in the step after the finished ones."""
        state, device = self._state, self._place.device
        finished = int(state.tally.finished_steps[row])
        start = finished * self._recipe.batch_size
        batch = order[start : start + self._recipe.batch_size].cpu()
        split = self._splits[state.living[row]]
        tensor = first_bad_tensor(
            state.replicas.as_model(state.replicas.weights(row)),
            split.tokens[batch].to(device),
            split.labels[batch].to(device),
            self._recipe,
        )
        return Divergence(epoch=state.epoch, step=finished + 1, tensor=tensor)

"""Gradient descent on any models of pattern sequences, by autograd, side by side.

The gated SSM itself trains much faster by its closed-form gradient, see `gradient_descent`; this is
the harness for everything that has none.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from keelback.dynamics.descent import measured_epochs
from keelback.dynamics.gated import hinge_loss
from keelback.dynamics.patterns import PatternBatch, stream
from keelback.errors import InputError

OptimizerName = Literal["gd", "sgd", "adam"]

_ORDER = 3


@dataclass(frozen=True)
class ModelHistory:
    """What one model did: measured steps, losses, accuracy, and its share of processor seconds.

    `steps_to_accuracy` is the first measured step with the wanted test accuracy, or `None`.
    """

    steps: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    steps_to_accuracy: int | None
    diverged: bool
    seconds: float


def train_models(
    models: Sequence[nn.Module],
    training: Sequence[PatternBatch],
    test: Sequence[PatternBatch],
    *,
    optimizer: OptimizerName,
    step_size: float,
    steps: int,
    batch_size: int | None = None,
    accuracy: float = 0.99,
    seeds: Sequence[int] | None = None,
) -> list[ModelHistory]:
    """Train models of one architecture, each on its own data; they end with their trained weights.

    Args:
        models: on the device of the data; every parameter that requires a gradient is trained.
        training: the data of each model; equal numbers of sequences.
        test: what each is measured on.
        optimizer: "gd" (all data every step), "sgd" (a random batch) or "adam" (a random batch,
            or all data where `batch_size` is left out).
        step_size: of the optimiser.
        steps: how many.
        batch_size: sequences a step; "sgd" needs it.
        accuracy: test accuracy whose first measured step is reported.
        seeds: of the random batches, one a model.

    Raises:
        InputError: for an empty set of models, counts that differ, or a missing batch size.
    """
    if not models:
        raise InputError("gradient descent: there is no model to train; give at least one trial")
    if not len(models) == len(training) == len(test):
        raise InputError("gradient descent: every model needs its training and test data")
    if optimizer == "sgd" and batch_size is None:
        raise InputError("gradient descent: sgd needs a batch size")
    started = time.process_time()
    replicas = _Replicas(models)
    optimiser = (torch.optim.Adam if optimizer == "adam" else torch.optim.SGD)(
        replicas.trained, lr=step_size
    )
    batches = _Batches(training, None if optimizer == "gd" else batch_size, seeds)
    tokens = torch.stack([batch.tokens for batch in test])
    labels = torch.stack([batch.labels for batch in test])
    times, measured = set(measured_epochs(steps, 0.05)), []
    for step in range(steps + 1):
        if step in times:
            measured.append((step, *replicas.measure(tokens, labels)))
        if step == steps:
            break
        optimiser.zero_grad()
        replicas.losses(*batches.next()).sum().backward()
        optimiser.step()
    replicas.write_back(models)
    seconds = (time.process_time() - started) / len(models)
    at, losses, shares = (np.array(part) for part in zip(*measured, strict=True))
    return [_history(at, losses[:, r], shares[:, r], accuracy, seconds) for r in range(len(models))]


def _history(
    steps: np.ndarray, losses: np.ndarray, shares: np.ndarray, accuracy: float, seconds: float
) -> ModelHistory:
    there = np.flatnonzero(shares >= accuracy)
    return ModelHistory(
        steps=steps,
        test_loss=losses,
        test_accuracy=shares,
        steps_to_accuracy=int(steps[there[0]]) if len(there) else None,
        diverged=not bool(np.isfinite(losses).all()),
        seconds=seconds,
    )


class _Replicas:
    """Models of one architecture as stacked weights; a single one is called directly."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._single = models[0] if len(models) == 1 else None
        self._weights: dict[str, Tensor]
        if self._single is not None:
            self._weights = dict(self._single.named_parameters())
        else:
            self._base = copy.deepcopy(models[0]).to("meta")
            stacked, self._buffers = stack_module_state(list(models))
            trained = {name: p.requires_grad for name, p in models[0].named_parameters()}
            self._weights = {
                name: nn.Parameter(weight.detach(), requires_grad=trained[name])
                for name, weight in stacked.items()
            }
        self.trained = [weight for weight in self._weights.values() if weight.requires_grad]

    def scores(self, tokens: Tensor) -> Tensor:
        if self._single is not None:
            found: Tensor = self._single(tokens[0])
            return found[None]

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], tokens: Tensor) -> Tensor:
            return functional_call(self._base, (weights, buffers), (tokens,))

        return vmap(one)(self._weights, self._buffers, tokens)

    def losses(self, tokens: Tensor, labels: Tensor) -> Tensor:
        scores = self.scores(tokens)
        flat = hinge_loss(scores.flatten(0, 1), labels.flatten())
        return flat.view(labels.shape).mean(1)

    @torch.no_grad()
    def measure(self, tokens: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
        scores = self.scores(tokens)
        losses = hinge_loss(scores.flatten(0, 1), labels.flatten()).view(labels.shape).mean(1)
        guesses = (scores[..., 0] <= 0).long() if scores.shape[-1] == 1 else scores.argmax(-1)
        return losses.cpu().numpy(), (guesses == labels).float().mean(1).cpu().numpy()

    @torch.no_grad()
    def write_back(self, models: Sequence[nn.Module]) -> None:
        if self._single is None:
            for r, model in enumerate(models):
                for name, parameter in model.named_parameters():
                    parameter.copy_(self._weights[name][r])


class _Batches:
    """Training data of every step: all of it, or random batches from each model's own stream."""

    def __init__(
        self, data: Sequence[PatternBatch], size: int | None, seeds: Sequence[int] | None
    ) -> None:
        self._tokens = torch.stack([batch.tokens for batch in data])
        self._labels = torch.stack([batch.labels for batch in data])
        samples = self._labels.shape[1]
        if size is not None and not 1 <= size <= samples:
            raise InputError(
                f"gradient descent: a batch of {size} is not between 1 and {samples} samples"
            )
        self._size = size
        self._streams = [stream(seed, _ORDER) for seed in seeds or range(len(data))]

    def next(self) -> tuple[Tensor, Tensor]:
        if self._size is None:
            return self._tokens, self._labels
        samples = self._labels.shape[1]
        picks = torch.stack(
            [torch.randint(samples, (self._size,), generator=s) for s in self._streams]
        ).to(self._labels.device)
        rows = torch.arange(len(picks), device=picks.device)[:, None]
        return self._tokens[rows, picks], self._labels[rows, picks]

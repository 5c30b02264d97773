"""Trainings of the gated SSM per second: one batch of replicas against one model after the other.

The peer is what one would write in PyTorch: a module, autograd, a loop over epochs, on the same
device with the same data. It is timed in two forms: stepping through the recurrence as the model is
defined, and in the attention form, which only holds for this model but needs no loop over tokens.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from keelback.data import MajorityVoting, sample_patterns
from keelback.data.patterns import stream
from keelback.errors import InputError
from keelback.models.gated import Form, GatedSSM, hinge_loss
from keelback.training.gradient_descent import GatedTraining, train_gated


@dataclass(frozen=True)
class DynamicsTiming:
    """Seconds of one training (all its epochs), medians over repeats."""

    device: str
    epochs: int
    replicas: int
    batched: float
    quadratic: float
    recurrent: float

    def as_dict(self) -> dict[str, Any]:
        """One row a way to train: its speed, and how many times faster the batch is."""
        ways = {
            "one batch of replicas": self.batched,
            "one by one, attention form": self.quadratic,
            "one by one, recurrence": self.recurrent,
        }
        return {
            "device": self.device,
            "epochs": self.epochs,
            "replicas": self.replicas,
            "rows": [
                {
                    "way": way,
                    "seconds a training": seconds,
                    "trainings a second": 1 / seconds,
                    "times slower than the batch": seconds / self.batched,
                }
                for way, seconds in ways.items()
            ],
        }


def time_dynamics(
    device: str,
    *,
    replicas: int,
    epochs: int = 400,
    peer_epochs: int = 20,
    repeats: int = 3,
    backend: str | None = None,
) -> DynamicsTiming:
    """Time the paper's majority-voting setting (d = 32, m = 50, L = 30, N = 400).

    The batch trains for `epochs` with its test set measured as always; drawing the data is part of
    it. The peer trains for `peer_epochs`, scaled up to `epochs`: its epochs cost the same
    throughout. Both are timed side by side, `repeats` times.

    Raises:
        InputError: for counts below 1.
    """
    if min(replicas, epochs, peer_epochs, repeats) < 1:
        raise InputError("bench dynamics: replicas, epochs and repeats are at least 1")
    training = GatedTraining(MajorityVoting(0.4, 0.1), epochs=epochs, target=None)
    batch = [_with_seed(training, seed) for seed in range(replicas)]
    warm = _with_seed(GatedTraining(training.pattern, epochs=2, target=None), 0)
    train_gated([warm], device=device, backend=backend)
    times: dict[str, list[float]] = {"batched": [], "quadratic": [], "recurrent": []}
    forms: tuple[Form, Form] = ("quadratic", "recurrent")
    for form in forms:
        _train_one(training, form, 2, device)
    for _ in range(repeats):
        run = _timed(lambda: train_gated(batch, device=device, backend=backend), device)
        times["batched"].append(run / replicas)
        for form in forms:
            seconds = _timed(lambda f=form: _train_one(training, f, peer_epochs, device), device)  # type: ignore[misc]
            times[form].append(seconds * epochs / peer_epochs)
    medians = {name: statistics.median(found) for name, found in times.items()}
    return DynamicsTiming(device, epochs, replicas, **medians)


def _with_seed(training: GatedTraining, seed: int) -> GatedTraining:
    return GatedTraining(
        training.pattern, epochs=training.epochs, target=training.target, seed=seed
    )


def _train_one(training: GatedTraining, form: Form, epochs: int, device: str) -> None:
    """The plain implementation: autograd and SGD on one model."""
    batch = sample_patterns(
        training.pattern, training.samples, training.noise, stream(0, 0, device)
    )
    model = GatedSSM(training.pattern.dim, training.width).to(device)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=training.step_size)
    for _ in range(epochs):
        optimizer.zero_grad()
        hinge_loss(model(batch.tokens, form), batch.labels).mean().backward()
        optimizer.step()


def _timed(work: Callable[[], Any], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()

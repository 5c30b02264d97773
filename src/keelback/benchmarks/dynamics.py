"""Trainings of the gated SSM per second: one batch of replicas against one model after the other.

The peer is what one would write in PyTorch: a module, autograd, a loop over epochs, on the same
device with the same data. It is timed in two forms: stepping through the recurrence as the model is
defined, and in the attention form, which only holds for this model but needs no loop over tokens.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.benchmark import Benchmark, Found, Group
from keelback.dynamics import MajorityVoting, sample_patterns
from keelback.dynamics.descent import GatedTraining, measured_epochs, train_gated
from keelback.dynamics.gated import Form, GatedSSM, hinge_loss
from keelback.dynamics.patterns import PatternBatch, stream
from keelback.errors import InputError

_BATCH = "one batch of replicas"
_ONE_BY_ONE: dict[Form, str] = {
    "quadratic": "one by one, attention form",
    "recurrent": "one by one, recurrence",
}
"""The ways to train, in words."""


def benchmark(
    device: str,
    *,
    replicas: int,
    epochs: int = 400,
    peer_epochs: int = 20,
    repeats: int = 3,
    backend: str | None = None,
) -> Benchmark:
    """Time the paper's majority-voting setting (d = 32, m = 50, L = 30, N = 400).

    The batch trains for `epochs` with its test set measured as always; drawing the data is part of
    it. The peer trains for `peer_epochs`, scaled up to `epochs`, and measures its test set once,
    scaled up to as many times as the batch does: either costs the same throughout. Both are timed
    side by side, `repeats` times. Its result has one row a way to train, by medians over the
    repeats: its speed, and how many times faster the batch is.

    Raises:
        InputError: for counts below 1.
    """
    if min(replicas, epochs, peer_epochs, repeats) < 1:
        raise InputError("bench dynamics: replicas, epochs and repeats are at least 1")
    group = Group(
        {f"repeat {count}": count for count in range(1, repeats + 1)},
        partial(_times, device, replicas, epochs, peer_epochs, backend),
    )
    about = {"device": device, "epochs": epochs, "replicas": replicas}
    return Benchmark([group], _result, about)


def _times(
    device: str,
    replicas: int,
    epochs: int,
    peer_epochs: int,
    backend: str | None,
    counts: Sequence[int],
) -> Iterator[dict[str, float]]:
    """Seconds of one training (all its epochs) by each way, once for each of the counts."""
    training = GatedTraining(MajorityVoting(0.4, 0.1), epochs=epochs, target=None)
    batch = [_with_seed(training, seed) for seed in range(replicas)]
    warm = _with_seed(GatedTraining(training.pattern, epochs=2, target=None), 0)
    train_gated([warm], device=device, backend=backend)
    peers = {form: _Peer(training, form, device) for form in _ONE_BY_ONE}
    for peer in peers.values():
        peer.train(2)
        peer.measure()
    for _ in counts:
        run = _timed(lambda: train_gated(batch, device=device, backend=backend), device)
        seconds = {_BATCH: run / replicas}
        for form, peer in peers.items():
            epoch = _timed(partial(peer.train, peer_epochs), device) / peer_epochs
            measurement = _timed(peer.measure, device)
            whole = epochs * epoch + len(measured_epochs(epochs)) * measurement
            seconds[_ONE_BY_ONE[form]] = whole
        yield seconds


def _result(found: Found) -> dict[str, Any]:
    ways = (_BATCH, *_ONE_BY_ONE.values())
    medians = {way: statistics.median(one[way] for one in found.values()) for way in ways}
    return {
        "rows": [
            {
                "way": way,
                "seconds a training": seconds,
                "trainings a second": 1 / seconds,
                "times slower than the batch": seconds / medians[_BATCH],
            }
            for way, seconds in medians.items()
        ],
    }


def _with_seed(training: GatedTraining, seed: int) -> GatedTraining:
    return GatedTraining(
        training.pattern, epochs=training.epochs, target=training.target, seed=seed
    )


class _Peer:
    """The plain implementation: autograd and SGD on one model."""

    def __init__(self, training: GatedTraining, form: Form, device: str) -> None:
        pattern, noise = training.pattern, training.noise
        self._form: Form = form
        self._data = sample_patterns(pattern, training.samples, noise, stream(0, 0, device))
        self._test = sample_patterns(pattern, training.test_samples, noise, stream(0, 1, device))
        self._model = GatedSSM(pattern.dim, training.width).to(device)
        weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        self._optimizer = torch.optim.SGD(weights, lr=training.step_size)

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            self._optimizer.zero_grad()
            self._loss(self._data).backward()
            self._optimizer.step()

    @torch.no_grad()
    def measure(self) -> None:
        self._loss(self._test)

    def _loss(self, batch: PatternBatch) -> Tensor:
        return hinge_loss(self._model(batch.tokens, self._form), batch.labels).mean()


def _timed(work: Callable[[], Any], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()

"""Trainings of one shape side by side, until the last of them is done."""

from collections.abc import Iterator

import torch
from torch import Tensor

from keelback.dynamics.descent.history import GatedHistory, Log, Measures, measured_epochs
from keelback.dynamics.descent.optimizer import Rates, Weights, make_optimizer
from keelback.dynamics.descent.schedule import Schedule
from keelback.dynamics.descent.sharpness import Sharpness
from keelback.dynamics.descent.training import GatedTraining
from keelback.dynamics.exchange import symmetric_gate, symmetric_readout
from keelback.dynamics.gated import class_readout, mixing_matrices
from keelback.dynamics.gradient import HingeObjective, clean_objective, hinge_objective
from keelback.dynamics.patterns import sample_features, sample_patterns, stream
from keelback.progress import tracked

TRAIN, TEST, INITIAL = 0, 1, 2
"""Purposes of a seed's random streams."""

FRESH_BLOCK = {"cpu": 2**21, "cuda": 2**23}
"""Token coordinates that a replica draws ahead in one go when every step has fresh data."""


_Drawn = tuple[Tensor, Tensor]
"""Tokens of sequences (their features, where there is no noise), and their signs z."""


def _draw(
    training: GatedTraining, samples: int, generator: torch.Generator, *, paired: bool = False
) -> _Drawn:
    if training.noise_free:
        features, labels = sample_features(training.pattern, samples, generator, paired=paired)
        return features, torch.where(labels == 0, 1.0, -1.0)
    batch = sample_patterns(training.pattern, samples, training.noise, generator, paired=paired)
    return batch.tokens, batch.signs


class _FreshData:
    """The endless training set of one replica, drawn some steps ahead."""

    def __init__(self, training: GatedTraining, device: str) -> None:
        self._training = training
        self._generator = stream(training.seed, TRAIN, device)
        step = training.samples * training.pattern.length * training.pattern.dim
        self._ahead = max(1, FRESH_BLOCK[torch.device(device).type] // step)
        self._drawn: list[_Drawn] = []

    def next(self) -> _Drawn:
        if not self._drawn:
            t = self._training
            data, signs = _draw(t, t.samples * self._ahead, self._generator)
            self._drawn = list(zip(data.split(t.samples), signs.split(t.samples), strict=True))
        return self._drawn.pop()


class Batch:
    """Trainings of one shape, side by side, until the last of them is done."""

    def __init__(self, trainings: list[GatedTraining], device: str, backend: str | None) -> None:
        self._trainings = trainings
        self._device = device
        self._backend = backend
        first = trainings[0]
        dtype = torch.float64 if first.noise_free else torch.float32
        self._v = class_readout(first.width)[:, 0].to(device)
        weights = [initial_weights(t) for t in trainings]
        W_O = torch.stack([W_O for W_O, _ in weights]).to(device, dtype)
        self._mixing = (
            torch.stack([mixing for _, mixing in weights]).to(device)
            if first.mixing == "gaussian"
            else None
        )
        w = torch.zeros(len(trainings), first.pattern.dim, device=device, dtype=dtype)
        self._weights: Weights = (w, W_O)
        self._rates = Rates.of(trainings, device, dtype)
        self._optimizer = make_optimizer(trainings, device, dtype)
        self._schedule = Schedule(trainings, device, dtype)
        self._test = self._objective(self._data(TEST))
        self._fresh: list[_FreshData] | None = None
        self._train: HingeObjective | None = None
        self._sharpness: Sharpness | None = None
        if first.source == "fresh":
            self._fresh = [_FreshData(t, device) for t in trainings]
        else:
            self._train = self._objective(self._data(TRAIN), train=True)

    def run(self) -> Iterator[tuple[int, GatedHistory]]:
        """Train; yields (place in the batch, history) of every training when it is done."""
        epochs = self._trainings[0].epochs
        times = set(measured_epochs(epochs))
        logs = [Log(t) for t in self._trainings]
        present = list(range(len(self._trainings)))
        for epoch in tracked(range(epochs + 1), "gradient descent"):
            train = self._training_data()
            step = train.gradient(*self._weights)
            gradient = self._symmetric((step.w, step.W_O))
            if epoch in times:
                self._measure(epoch, step.loss, [logs[i] for i in present])
                leaving = [i for i in present if logs[i].done(epoch == epochs)]
                for i in leaving:
                    if not logs[i].reported:
                        yield i, logs[i].history(self._weights[1][present.index(i)])
                if 8 * len(leaving) >= len(present):
                    kept = [place for place, i in enumerate(present) if i not in set(leaving)]
                    if not kept:
                        return
                    places = torch.tensor(kept, device=self._device)
                    gradient = (gradient[0][places], gradient[1][places])
                    self._keep(places)
                    present = [present[place] for place in kept]
                if self._sharpness is not None:
                    self._schedule.measure(self._sharpness, self._weights, self._rates)
            rates = self._schedule.rates(epoch, self._rates)
            self._weights = self._optimizer.step(self._weights, gradient, rates)

    def _training_data(self) -> HingeObjective:
        if self._train is not None:
            return self._train
        assert self._fresh is not None
        return self._objective([data.next() for data in self._fresh], train=True)

    def _symmetric(self, weights: Weights) -> Weights:
        symmetry = self._trainings[0].symmetry
        if symmetry == "none":
            return weights
        gate = symmetric_gate(weights[0]) if symmetry == "model" else weights[0]
        return gate, symmetric_readout(weights[1])

    def _measure(self, epoch: int, train_loss: Tensor, logs: list[Log]) -> None:
        w, W_O = self._weights
        margins = self._test.margins(w, W_O)
        finite = torch.isfinite(w).all(1) & torch.isfinite(W_O).all(2).all(1)
        measures = torch.stack(
            [
                train_loss,
                torch.relu(1 - margins).mean(1),
                (margins > 0).float().mean(1),
                finite,
                ranking(margins, self._test.signs),
                self._schedule.progress.to(w.dtype),
            ],
            1,
        )
        rows = torch.cat([measures, w], 1).cpu().numpy()
        for log, row in zip(logs, rows, strict=True):
            measured = Measures(
                train_loss=float(row[0]),
                test_loss=float(row[1]),
                test_accuracy=float(row[2]),
                finite=bool(row[3]),
                test_ranking=float(row[4]),
                progress=float(row[5]),
                gating=row[6:],
            )
            log.add(epoch, measured)

    def _keep(self, places: Tensor) -> None:
        self._weights = (self._weights[0][places], self._weights[1][places])
        self._rates = self._rates.keep(places)
        self._optimizer = self._optimizer.keep(places)
        self._schedule.keep(places)
        self._test = self._test.keep(places)
        if self._sharpness is not None:
            self._sharpness = self._sharpness.keep(places)
        if self._mixing is not None:
            self._mixing = self._mixing[places]
        if self._train is not None:
            self._train = self._train.keep(places)
        if self._fresh is not None:
            self._fresh = [self._fresh[place] for place in places.tolist()]

    def _data(self, purpose: int) -> list[_Drawn]:
        drawn = []
        for training in self._trainings:
            samples = training.test_samples if purpose == TEST else training.samples
            paired = purpose == TRAIN and training.source == "paired"
            generator = stream(training.seed, purpose, self._device)
            drawn.append(_draw(training, samples, generator, paired=paired))
        return drawn

    def _objective(self, drawn: list[_Drawn], *, train: bool = False) -> HingeObjective:
        data = torch.stack([part for part, _ in drawn])
        signs = torch.stack([part for _, part in drawn])
        first = self._trainings[0]
        if train and first.schedule == "stable" and self._sharpness is None:
            self._sharpness = Sharpness.on(
                data, signs, self._v, self._mixing, first.pattern.dim, first.symmetry
            )
        if first.noise_free:
            return clean_objective(data, signs, self._v, first.pattern.dim, backend=self._backend)
        return hinge_objective(data, signs, self._v, self._mixing, backend=self._backend)


def initial_weights(training: GatedTraining) -> tuple[Tensor, Tensor]:
    """W_O at the start, symmetric where that is asked for, and W_B^T W_C; w starts at zero."""
    generator = stream(training.seed, INITIAL)
    dim = training.pattern.dim
    W_O = training.readout_scale * torch.randn(training.width, dim, generator=generator)
    W_B, W_C = mixing_matrices(dim, training.mixing, generator)
    return W_O if training.symmetry == "none" else symmetric_readout(W_O), W_B.T @ W_C


def ranking(margins: Tensor, signs: Tensor) -> Tensor:
    """Chance that a sample with sign +1 has a larger output than one with sign -1, by ranks."""
    ranks = (margins * signs).argsort(1).argsort(1) + 1.0
    positive = signs > 0
    count = positive.sum(1)
    wins = (ranks * positive).sum(1) - count * (count + 1) / 2
    return wins / (count * (signs.shape[1] - count))

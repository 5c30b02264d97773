"""Full-batch gradient descent on many gated SSMs as one batch.

Give `train_gated` any list of trainings: those of equal shape run together along a replica axis,
and leave it when they reach their target, run out of epochs, or diverge. What a training returns
depends on its own configuration alone, not on the company it ran in.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from keelback.dynamics.gated import Mixing, class_readout, mixing_matrices
from keelback.dynamics.gradient import HingeObjective, hinge_objective
from keelback.dynamics.noise import GaussianNoise, Noise
from keelback.dynamics.patterns import Pattern, PatternBatch, sample_patterns, stream
from keelback.errors import InputError
from keelback.memory import require_memory
from keelback.progress import tracked

Source = Literal["fixed", "paired", "fresh"]
Status = Literal["reached", "censored", "diverged"]

_TRAIN, _TEST, _INITIAL = 0, 1, 2
_FRESH_BLOCK = {"cpu": 2**21, "cuda": 2**23}
"""Token coordinates that a replica draws ahead in one go when every step has fresh data."""

_GPU_BATCH = 12 * 2**30
"""Bytes of a GPU that a batch takes at most: they fill it, and several commands can share it."""


@dataclass(frozen=True)
class GatedTraining:
    """One training of the gated SSM of arXiv 2602.12499, in full.

    Attributes:
        pattern: the task.
        noise: what is added to every token.
        samples: training sequences (with "fresh" data: sequences a step).
        source: "fixed" draws the training set once, "paired" too but with every sequence repeated
            under exchanged classes, "fresh" draws new sequences at every step.
        width: hidden units m.
        step_size: eta.
        epochs: gradient steps at most.
        seed: of the training data, the test data and the initial weights.
        test_samples: sequences that the test loss is measured on.
        target: test loss that counts as success; `None` for no target.
        stop_at_target: leave the batch there, or train on to the last epoch.
        readout_scale: standard deviation of W_O's entries at the start.
        mixing: W_B and W_C, which stay as they start; see `mixing_matrices`.
    """

    pattern: Pattern
    noise: Noise = field(default_factory=lambda: GaussianNoise(0.02))
    samples: int = 400
    source: Source = "fixed"
    width: int = 50
    step_size: float = 0.5
    epochs: int = 1000
    seed: int = 0
    test_samples: int = 500
    target: float | None = 1e-3
    stop_at_target: bool = True
    readout_scale: float = 0.1
    mixing: Mixing = "identity"

    def __post_init__(self) -> None:
        if self.pattern.classes != 2:
            raise InputError(
                f"gradient descent: the batched trainer takes two classes, not "
                f"{self.pattern.classes}"
            )
        dim = self.pattern.dim
        require_memory(4.0 * dim * (self.width + 3 * dim), "the weights of the gated model")
        class_readout(self.width)
        if self.source not in ("fixed", "paired", "fresh"):
            raise InputError(
                f"gradient descent: data are fixed, paired or fresh, not {self.source!r}"
            )
        if self.epochs < 1:
            raise InputError(f"gradient descent: at least one epoch is needed, not {self.epochs}")
        if not 1e-38 <= self.step_size <= 3.4e38:
            raise InputError(
                f"gradient descent: the step size is a number from 1e-38 to 3.4e38, not "
                f"{self.step_size}"
            )
        if self.target is not None and not 0 < self.target < 1:
            raise InputError(
                f"gradient descent: the target test loss lies between 0 and 1, not {self.target}"
            )
        for name, count in (("samples", self.samples), ("test samples", self.test_samples)):
            if count < 2:
                raise InputError(f"gradient descent: {name} are at least 2, not {count}")
        if self.source == "paired" and self.samples % 2:
            raise InputError(
                f"gradient descent: paired data need an even number of samples, not {self.samples}"
            )


@dataclass(frozen=True)
class GatedHistory:
    """What one training did.

    Attributes:
        status: "reached" its target; "censored": ran out of epochs first (or had no target);
            "diverged": a parameter stopped being finite.
        epochs_to_target: first measured epoch with the test loss at the target, or `None`.
        diverged_by: first measured epoch with a parameter that is not finite, or `None`.
        epochs: when the rest was measured, see `measured_epochs`; shape (times,).
        train_loss, test_loss, test_accuracy: mean hinge losses and share of signs right; (times,).
        test_ranking: chance that F is larger for a test sequence with z = +1 than for one with
            z = -1; unlike the accuracy it does not suffer where F is off by a constant; (times,).
        gating: w at those times, shape (times, dim).
        W_O: the readout at the end, shape (width, dim).
    """

    status: Status
    epochs_to_target: int | None
    diverged_by: int | None
    epochs: np.ndarray
    train_loss: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    test_ranking: np.ndarray
    gating: np.ndarray
    W_O: np.ndarray


def measured_epochs(epochs: int, resolution: float = 0.02) -> list[int]:
    """Epochs at which the test loss is measured: every one at first, then `resolution` apart.

    An epoch count read off this grid is at most `resolution` (relative) late.
    """
    times = [0]
    while times[-1] < epochs:
        times.append(min(epochs, max(times[-1] + 1, int(times[-1] * (1 + resolution)))))
    return times


def train_gated(
    trainings: Sequence[GatedTraining],
    *,
    device: str = "cpu",
    backend: str | None = None,
    memory: float | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[GatedHistory]:
    """Train every one of `trainings`; equal shapes are trained together, in batches that fit.

    Args:
        trainings: any mix of settings and seeds.
        device: where to train, "cpu" or "cuda".
        backend: of the gradient; see `keelback.dynamics.gradient.objective.hinge_objective`.
        memory: bytes a batch may take (1 GiB on the CPU; on a GPU 12 GiB or 40% of what is free,
            whichever is less).
        on_progress: called with the number of trainings that have just finished.

    Returns:
        The histories, in the order of `trainings`.

    Raises:
        InputError: when `trainings` is empty.
    """
    if not trainings:
        raise InputError("gradient descent: there is nothing to train; give at least one trial")
    if memory is None:
        memory = 2.0**30
        if device.startswith("cuda"):
            memory = min(_GPU_BATCH, 0.4 * torch.cuda.mem_get_info()[0])
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, training in enumerate(trainings):
        groups[_shape(training)].append(index)
    histories: dict[int, GatedHistory] = {}
    for group in groups.values():
        room = max(1, int(memory / _bytes(trainings[group[0]], device)))
        for start in range(0, len(group), room):
            chosen = group[start : start + room]
            batch = _Batch([trainings[i] for i in chosen], device, backend)
            for replica, history in batch.run():
                histories[chosen[replica]] = history
                if on_progress is not None:
                    on_progress(1)
    return [histories[index] for index in range(len(trainings))]


def _shape(training: GatedTraining) -> tuple[object, ...]:
    return (
        training.pattern.length,
        training.pattern.dim,
        training.samples,
        training.test_samples,
        training.width,
        training.epochs,
        training.source == "fresh",
        training.mixing == "gaussian",
    )


def _bytes(training: GatedTraining, device: str) -> float:
    length, dim = training.pattern.length, training.pattern.dim
    sequence = 4 * (2 * length * dim + length * length)
    copies = 2 if device == "cpu" else 3
    total = copies * sequence * (training.samples + training.test_samples)
    if training.source == "fresh":
        ahead = _FRESH_BLOCK[torch.device(device).type]
        total += 4 * max(ahead, training.samples * length * dim)
    return float(total)


class _FreshData:
    """The endless training set of one replica, drawn some steps ahead."""

    def __init__(self, training: GatedTraining, device: str) -> None:
        self._training = training
        self._generator = stream(training.seed, _TRAIN, device)
        step = training.samples * training.pattern.length * training.pattern.dim
        self._ahead = max(1, _FRESH_BLOCK[torch.device(device).type] // step)
        self._tokens: list[Tensor] = []
        self._signs: list[Tensor] = []

    def next(self) -> tuple[Tensor, Tensor]:
        if not self._tokens:
            t = self._training
            samples = t.samples * self._ahead
            batch = sample_patterns(t.pattern, samples, t.noise, self._generator)
            self._tokens = list(batch.tokens.split(t.samples))
            self._signs = list(batch.signs.split(t.samples))
        return self._tokens.pop(), self._signs.pop()


class _Batch:
    """Trainings of one shape, side by side, until the last of them is done."""

    def __init__(self, trainings: list[GatedTraining], device: str, backend: str | None) -> None:
        self._trainings = trainings
        self._device = device
        self._backend = backend
        first = trainings[0]
        self._v = class_readout(first.width)[:, 0].to(device)
        weights = [self._initial(t) for t in trainings]
        self._W_O = torch.stack([W_O for W_O, _ in weights]).to(device)
        self._mixing = (
            torch.stack([mixing for _, mixing in weights]).to(device)
            if first.mixing == "gaussian"
            else None
        )
        self._w = torch.zeros(len(trainings), first.pattern.dim, device=device)
        self._step = torch.tensor([t.step_size for t in trainings], device=device)
        self._test = self._objective([self._draw(t, _TEST) for t in trainings])
        self._fresh: list[_FreshData] | None = None
        self._train: HingeObjective | None = None
        if first.source == "fresh":
            self._fresh = [_FreshData(t, device) for t in trainings]
        else:
            self._train = self._objective([self._draw(t, _TRAIN) for t in trainings])

    def run(self) -> Iterator[tuple[int, GatedHistory]]:
        """Train; yields (place in the batch, history) of every training when it is done."""
        epochs = self._trainings[0].epochs
        times = set(measured_epochs(epochs))
        logs = [_Log(t) for t in self._trainings]
        present = list(range(len(self._trainings)))
        for epoch in tracked(range(epochs + 1), "gradient descent"):
            train = self._training_data()
            step = train.gradient(self._w, self._W_O)
            if epoch in times:
                self._measure(epoch, step.loss, [logs[i] for i in present])
                leaving = [i for i in present if logs[i].done(epoch == epochs)]
                for i in leaving:
                    if not logs[i].reported:
                        yield i, logs[i].history(self._W_O[present.index(i)])
                if 8 * len(leaving) >= len(present):
                    kept = [place for place, i in enumerate(present) if i not in set(leaving)]
                    if not kept:
                        return
                    places = torch.tensor(kept, device=self._device)
                    step = type(step)(step.loss[places], step.w[places], step.W_O[places])
                    self._keep(places)
                    present = [present[place] for place in kept]
            self._w = self._w - self._step[:, None] * step.w
            self._W_O = self._W_O - self._step[:, None, None] * step.W_O

    def _training_data(self) -> HingeObjective:
        if self._train is not None:
            return self._train
        assert self._fresh is not None
        drawn = [data.next() for data in self._fresh]
        tokens = torch.stack([tokens for tokens, _ in drawn])
        signs = torch.stack([signs for _, signs in drawn])
        return hinge_objective(tokens, signs, self._v, self._mixing, backend=self._backend)

    def _measure(self, epoch: int, train_loss: Tensor, logs: list["_Log"]) -> None:
        margins = self._test.margins(self._w, self._W_O)
        finite = torch.isfinite(self._w).all(1) & torch.isfinite(self._W_O).all(2).all(1)
        measures = torch.stack(
            [
                train_loss,
                torch.relu(1 - margins).mean(1),
                (margins > 0).float().mean(1),
                finite,
                _ranking(margins, self._test.signs),
            ],
            1,
        )
        rows = torch.cat([measures, self._w], 1).cpu().numpy()
        for log, row in zip(logs, rows, strict=True):
            log.add(epoch, row)

    def _keep(self, places: Tensor) -> None:
        self._w, self._W_O = self._w[places], self._W_O[places]
        self._step = self._step[places]
        self._test = self._test.keep(places)
        if self._mixing is not None:
            self._mixing = self._mixing[places]
        if self._train is not None:
            self._train = self._train.keep(places)
        if self._fresh is not None:
            self._fresh = [self._fresh[place] for place in places.tolist()]

    def _initial(self, training: GatedTraining) -> tuple[Tensor, Tensor]:
        generator = stream(training.seed, _INITIAL)
        dim = training.pattern.dim
        W_O = training.readout_scale * torch.randn(training.width, dim, generator=generator)
        W_B, W_C = mixing_matrices(dim, training.mixing, generator)
        return W_O, W_B.T @ W_C

    def _draw(self, training: GatedTraining, purpose: int) -> PatternBatch:
        samples = training.test_samples if purpose == _TEST else training.samples
        generator = stream(training.seed, purpose, self._device)
        paired = purpose == _TRAIN and training.source == "paired"
        return sample_patterns(training.pattern, samples, training.noise, generator, paired=paired)

    def _objective(self, batches: list[PatternBatch]) -> HingeObjective:
        tokens = torch.stack([batch.tokens for batch in batches])
        signs = torch.stack([batch.signs for batch in batches])
        return hinge_objective(tokens, signs, self._v, self._mixing, backend=self._backend)


def _ranking(margins: Tensor, signs: Tensor) -> Tensor:
    """Chance that a sample with sign +1 has a larger output than one with sign -1, by ranks."""
    ranks = (margins * signs).argsort(1).argsort(1) + 1.0
    positive = signs > 0
    count = positive.sum(1)
    wins = (ranks * positive).sum(1) - count * (count + 1) / 2
    return wins / (count * (signs.shape[1] - count))


def _settled(training: GatedTraining, train_loss: float) -> bool:
    """Whether all margins are met: the gradient is zero then, and every later epoch the same."""
    return training.source != "fresh" and train_loss == 0


class _Log:
    """The measurements of one training while it runs."""

    def __init__(self, training: GatedTraining) -> None:
        self._training = training
        self._epochs: list[int] = []
        self._rows: list[np.ndarray] = []
        self._reached: int | None = None
        self._diverged: int | None = None
        self._finished = False
        self._settled = False
        self.reported = False

    def add(self, epoch: int, row: np.ndarray) -> None:
        if self._finished:
            return
        self._epochs.append(epoch)
        self._rows.append(row)
        test_loss, finite = row[1], row[3]
        target = self._training.target
        if not finite:
            self._diverged = epoch
        elif target is not None and self._reached is None and test_loss <= target:
            self._reached = epoch
        self._settled = _settled(self._training, float(row[0]))

    def done(self, last: bool) -> bool:
        stopped = self._training.stop_at_target and self._reached is not None
        diverged = self._diverged is not None
        self._settled = self._settled and not stopped and not diverged
        self._finished = self._finished or last or stopped or diverged or self._settled
        return self._finished

    def history(self, W_O: Tensor) -> GatedHistory:
        self.reported = True
        if self._settled:
            later = [e for e in measured_epochs(self._training.epochs) if e > self._epochs[-1]]
            self._epochs += later
            self._rows += [self._rows[-1]] * len(later)
        rows = np.stack(self._rows)
        status: Status = "censored"
        if self._diverged is not None:
            status = "diverged"
        elif self._reached is not None:
            status = "reached"
        return GatedHistory(
            status=status,
            epochs_to_target=self._reached,
            diverged_by=self._diverged,
            epochs=np.array(self._epochs),
            train_loss=rows[:, 0],
            test_loss=rows[:, 1],
            test_accuracy=rows[:, 2],
            test_ranking=rows[:, 4],
            gating=rows[:, 5:],
            W_O=W_O.cpu().numpy(),
        )

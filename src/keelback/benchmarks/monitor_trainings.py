"""Trainings that may diverge, for the monitor to watch: at once, slowly, and not at all."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keelback.audit import Action, bundled_text
from keelback.data import Majority, MajoritySettings
from keelback.models import MambaLanguageModelConfig, SelectiveSSMConfig
from keelback.training import Recipe
from keelback.training.recipe import replica_losses

Setting = dict[str, float | int | str]
Batch = tuple[Tensor, Callable[[], Tensor]]
"""Tokens, and the training loss on them."""


@dataclass(frozen=True)
class Start:
    """A training before its first step; `clip_norm` is that of the gradient, if it is clipped."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterator[Batch]
    clip_norm: float | None


class Family(ABC):
    """Trainings of one kind, with the steps between readings and the action that may save them."""

    name: str
    every: int
    action: Action

    @abstractmethod
    def settings(self) -> list[Setting]:
        """What the trainings differ in, besides their seeds."""

    @abstractmethod
    def start(self, setting: Setting, seed: int) -> Start:
        """One training; the same for the same arguments."""


def _combined(**values: Sequence[Any]) -> list[Setting]:
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


class FromUnstableStarts(Family):
    """Selective SSMs on Majority by the recipe of arXiv 2502.01473, from starts stable and not."""

    name = "unstable start"
    every, action = 1, "clip"
    lengths: Sequence[int] = (300, 600, 1000, 2000)
    abscissae: Sequence[float] = (-0.05, 0.0, 0.05)
    examples, epochs = 500, 4

    def settings(self) -> list[Setting]:
        """Sequence lengths and spectral abscissae."""
        return _combined(seq_len=self.lengths, spectral_abscissa=self.abscissae)

    def start(self, setting: Setting, seed: int) -> Start:
        """Adam at the recipe's rate, four epochs."""
        generator = torch.Generator().manual_seed(seed)
        recipe = Recipe()
        model: Any = SelectiveSSMConfig(
            vocab_size=2, spectral_abscissa=float(setting["spectral_abscissa"])
        ).build(generator)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        seq_len = int(setting["seq_len"])
        data = MajoritySettings(seq_len=seq_len, data_seed=seed, n_train=self.examples, n_test=1)
        split = Majority(data).split("train")

        def batches() -> Iterator[Batch]:
            for _ in range(self.epochs):
                order = torch.randperm(len(split), generator=generator)
                for rows in order.split(recipe.batch_size):
                    tokens, labels = split.tokens[rows], split.labels[rows]
                    yield tokens, partial(_recipe_loss, model, tokens, labels, recipe)

        return Start(model, optimizer, batches(), recipe.clip_norm)


class LengtheningSequences(Family):
    """Selective SSMs on the majority of random bits, in sequences that lengthen in training."""

    name = "lengthening sequences"
    every, action = 10, "clip"
    learning_rates: Sequence[float] = (1e-2, 1e-3, 1e-4)
    abscissae: Sequence[float] = (-0.05, 0.0, 0.02, 0.05)
    first_length, more_a_step, steps = 100, 4, 250
    batch = 32

    def settings(self) -> list[Setting]:
        """Learning rates and spectral abscissae."""
        return _combined(learning_rate=self.learning_rates, spectral_abscissa=self.abscissae)

    def start(self, setting: Setting, seed: int) -> Start:
        """Adam, its gradients clipped as in the recipe."""
        generator = torch.Generator().manual_seed(seed)
        model: Any = SelectiveSSMConfig(
            vocab_size=2, spectral_abscissa=float(setting["spectral_abscissa"])
        ).build(generator)
        optimizer = torch.optim.Adam(model.parameters(), lr=float(setting["learning_rate"]))

        def batches() -> Iterator[Batch]:
            for step in range(self.steps):
                seq_len = self.first_length + self.more_a_step * step
                tokens = torch.randint(2, (self.batch, seq_len), generator=generator)
                labels = (tokens.float().mean(1) > 0.5).float()
                yield tokens, partial(_binary_loss, model, tokens, labels)

        return Start(model, optimizer, batches(), Recipe().clip_norm)


class UnclippedLanguageModels(Family):
    """Two-layer Mambas on bytes of a novel, no gradient clipped, the rate constant or rising."""

    name = "unclipped language model"
    every, action = 1, "lower-rate"
    rates: Sequence[Setting] = (
        {"optimizer": "SGD", "learning_rate": 0.1, "rise": 0.0},
        {"optimizer": "SGD", "learning_rate": 0.4, "rise": 0.0},
        {"optimizer": "SGD", "learning_rate": 0.8, "rise": 0.0},
        {"optimizer": "SGD", "learning_rate": 1.5, "rise": 0.0},
        {"optimizer": "SGD", "learning_rate": 0.1, "rise": 0.05},
        {"optimizer": "SGD", "learning_rate": 0.1, "rise": 0.1},
        {"optimizer": "Adam", "learning_rate": 0.003, "rise": 0.0},
        {"optimizer": "Adam", "learning_rate": 0.02, "rise": 0.0},
    )
    momentum = 0.9
    d_model, n_layers, seq_len, batch, steps = 32, 2, 128, 8, 150

    def settings(self) -> list[Setting]:
        """Optimisers, their rates, and by what share of it the rate rises a step."""
        return list(self.rates)

    def start(self, setting: Setting, seed: int) -> Start:
        """SGD with momentum, or Adam, on random windows of the sample text."""
        generator = torch.Generator().manual_seed(seed)
        model: Any = MambaLanguageModelConfig(
            vocab_size=256, d_model=self.d_model, n_layers=self.n_layers
        ).build(generator)
        first, rise = float(setting["learning_rate"]), float(setting["rise"])
        optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(model.parameters(), lr=first, momentum=self.momentum)
            if setting["optimizer"] == "SGD"
            else torch.optim.Adam(model.parameters(), lr=first)
        )
        data = torch.frombuffer(bytearray(bundled_text().encode()), dtype=torch.uint8).long()

        def batches() -> Iterator[Batch]:
            for _ in range(self.steps):
                starts = torch.randint(
                    len(data) - self.seq_len - 1, (self.batch, 1), generator=generator
                )
                windows = data[starts + torch.arange(self.seq_len + 1)]
                tokens, targets = windows[:, :-1], windows[:, 1:]
                yield tokens, partial(_byte_loss, model, tokens, targets)
                for group in optimizer.param_groups:
                    group["lr"] += rise * first

        return Start(model, optimizer, batches(), None)


def _recipe_loss(model: nn.Module, tokens: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    return replica_losses(model(tokens)[None], labels[None], recipe).sum()


def _binary_loss(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(model(tokens), labels)


def _byte_loss(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())


FAMILIES: tuple[Family, ...] = (
    FromUnstableStarts(),
    LengtheningSequences(),
    UnclippedLanguageModels(),
)

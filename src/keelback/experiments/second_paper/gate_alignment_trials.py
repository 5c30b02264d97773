"""Runs that train one model of pattern sequences by autograd, and measure its gates."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from keelback.device import default_device
from keelback.dynamics import GaussianNoise, Locality, MajorityVoting, PatternBatch, sample_patterns
from keelback.dynamics.descent_of_models import ModelHistory, OptimizerName, train_models
from keelback.dynamics.gated_mamba import PatternMamba
from keelback.dynamics.patterns import stream
from keelback.dynamics.recurrences import (
    FixedDecay,
    GatedDeltaRule,
    GatedLinearAttention,
    GatedMixer,
    PatternClassifier,
    SoftmaxAttention,
)
from keelback.experiments.second_paper.gated_trials import use_device
from keelback.memory import require_memory
from keelback.sweeps.run import Progress, Run, RunResult, Scalar

ACCURACY = 0.95
"""Test accuracy that counts as learned."""

_Mixer = Callable[[int, int], nn.Module]

MIXERS: dict[str, _Mixer] = {
    "gated SSM": lambda dim, length: GatedMixer(dim),
    "gated SSM, gate frozen": lambda dim, length: GatedMixer(dim, frozen=True),
    "gated SSM, W_B and W_C trained": lambda dim, length: GatedMixer(dim, train_mixing=True),
    "gated linear attention": lambda dim, length: GatedLinearAttention(dim),
    "gated delta rule": lambda dim, length: GatedDeltaRule(dim),
    "fixed decay": lambda dim, length: FixedDecay(),
    "softmax attention": lambda dim, length: SoftmaxAttention(dim, length),
    "softmax attention, window 4": lambda dim, length: SoftmaxAttention(dim, length, window=4),
    "softmax attention, positions": lambda dim, length: SoftmaxAttention(
        dim, length, positions=True
    ),
}
DEPTHS = {f"Mamba, {depth} layer{'s' * (depth > 1)}": depth for depth in (1, 2, 5)}
_TIMES = {"gated linear attention": 8, "gated delta rule": 3}
_FULL_BATCH = 8


class HarnessTrials(Run):
    """One model trained by autograd from several seeds on pattern sequences, paired data."""

    kind: ClassVar[str] = "harness-trials"

    model: str
    pattern: MajorityVoting | Locality
    noise: float = 0.02
    samples: int = 1000
    test_samples: int = 500
    width: int = 20
    optimizer: OptimizerName = "adam"
    step_size: float = 0.01
    batch_size: int | None = 64
    steps: int = 2000
    trials: int = Field(default=10, ge=1)
    first_seed: int = Field(default=0, ge=0)

    def cost(self) -> float:
        """Milliseconds, roughly, by how many times longer a step takes than a gated SSM's."""
        times = 12 * DEPTHS[self.model] if self.model in DEPTHS else _TIMES.get(self.model, 1)
        return float(self.trials * self.steps * times * (_FULL_BATCH if not self.batch_size else 1))

    def require_room(self) -> None:
        """Check that the trials' data fit, as many as there are."""
        tokens = (self.samples + self.test_samples) * self.pattern.length
        require_memory(
            4.0 * self.trials * tokens * self.pattern.dim, f"{self.trials} trials of {self.kind}"
        )

    def batch_key(self) -> str:
        """Each model a batch of its own on the CPU; a GPU takes one after the other."""
        return self.kind if default_device() == "cuda" else self.name

    @classmethod
    def execute(cls, runs: Sequence[Self], progress: Progress) -> Iterator[tuple[Self, RunResult]]:
        """Train the models of one run side by side; Mamba stacks one after the other."""
        device = use_device()
        for place, run in enumerate(runs):
            yield run, run.train(device)
            progress((place + 1) / len(runs))

    def train(self, device: str) -> RunResult:
        """Train all trials and measure their gates on the test data."""
        seeds = [self.first_seed + trial for trial in range(self.trials)]
        models = [self.build(seed).to(device) for seed in seeds]
        train = [self._draw(seed, 0, device) for seed in seeds]
        test = [self._draw(seed, 1, device) for seed in seeds]
        starts = [_rankings(model, data) for model, data in zip(models, test, strict=True)]
        together = (
            [[i] for i in range(len(seeds))] if self.model in DEPTHS else [[*range(len(seeds))]]
        )
        rows: list[dict[str, Scalar]] = []
        for group in together:
            histories = train_models(
                [models[i] for i in group],
                [train[i] for i in group],
                [test[i] for i in group],
                optimizer=self.optimizer,
                step_size=self.step_size,
                steps=self.steps,
                batch_size=self.batch_size,
                accuracy=ACCURACY,
                seeds=[seeds[i] for i in group],
            )
            for i, history in zip(group, histories, strict=True):
                ended = _rows(models[i], test[i], history)
                started = starts[i] or [None]
                rows += [
                    {"seed": seeds[i], **row, "auc_at_start": auc}
                    for row, auc in zip(ended, started, strict=True)
                ]
        summary: dict[str, Scalar] = {
            "trials": self.trials,
            "parameters": sum(p.numel() for p in models[0].parameters() if p.requires_grad),
        }
        return RunResult(summary, rows)

    def build(self, seed: int) -> nn.Module:
        """The model at its initial weights."""
        generator = stream(seed, 2)
        dim, length = self.pattern.dim, self.pattern.length
        if self.model in DEPTHS:
            return PatternMamba(dim, n_layers=DEPTHS[self.model], generator=generator)
        mixer = MIXERS[self.model](dim, length)
        return PatternClassifier(mixer, dim, self.width, generator=generator)

    def _draw(self, seed: int, purpose: int, device: str) -> PatternBatch:
        samples = self.test_samples if purpose else self.samples
        noise = GaussianNoise(self.noise)
        generator = stream(seed, purpose, device)
        return sample_patterns(self.pattern, samples, noise, generator, paired=not purpose)


@torch.no_grad()
def _gates(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    """Every gate of a model, averaged over its channels: (samples, length), one a layer."""
    if isinstance(model, PatternMamba):
        return [delta.mean(-1) for delta in model.step_sizes(tokens)]
    mixer = model.mixer
    if isinstance(mixer, GatedMixer):
        return [torch.sigmoid(tokens @ mixer.w)]
    if isinstance(mixer, GatedLinearAttention):
        return [1 - torch.sigmoid(tokens @ mixer.W_alpha.mT + mixer.b).mean(-1)]
    if isinstance(mixer, GatedDeltaRule):
        return [torch.sigmoid(tokens @ mixer.w_beta)]
    return []


def _rows(model: nn.Module, test: PatternBatch, history: ModelHistory) -> list[dict[str, Scalar]]:
    """One row a layer with a gate, or a single row where the model has none."""
    ended: dict[str, Scalar] = {
        "steps_to_accuracy": history.steps_to_accuracy,
        "test_accuracy": float(history.test_accuracy[-1]),
        "best_accuracy": float(history.test_accuracy.max()),
        "test_loss": float(history.test_loss[-1]) if not history.diverged else None,
        "diverged": history.diverged,
        "seconds": round(history.seconds, 3),
    }
    features = test.features.cpu().numpy()
    relevant = features < 2
    rows = []
    for layer, gate in enumerate(_gates(model, test.tokens)):
        values = gate.cpu().numpy()
        rows.append(
            {
                **ended,
                "layer": layer + 1,
                "relevant": float(values[relevant].mean()),
                "irrelevant": float(values[~relevant].mean()),
                "auc": _auc(values[relevant], values[~relevant]),
            }
        )
    none = dict.fromkeys(("layer", "relevant", "irrelevant", "auc"))
    return rows or [{**ended, **none}]


def _rankings(model: nn.Module, test: PatternBatch) -> list[float]:
    """How well each gate of a model tells relevant tokens from irrelevant ones."""
    relevant = test.features.cpu().numpy() < 2
    gates = [gate.cpu().numpy() for gate in _gates(model, test.tokens)]
    return [_auc(values[relevant], values[~relevant]) for values in gates]


def _auc(relevant: np.ndarray, irrelevant: np.ndarray) -> float:
    """Chance that a relevant token's gate is wider open than an irrelevant one's."""
    from scipy import stats  # slow to import

    ranks = stats.rankdata(np.concatenate([relevant, irrelevant]))
    wins = ranks[: len(relevant)].sum() - len(relevant) * (len(relevant) + 1) / 2
    return float(wins / (len(relevant) * len(irrelevant)))

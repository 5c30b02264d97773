"""Does a gate learn to select relevant tokens in full models too, and do other recurrences learn?

What the reviewers of arXiv 2602.12499 asked for: full Mamba blocks at depth 1, 2 and 5, ablations
of the gated SSM (frozen gate, trained W_B and W_C, other optimisers), and other ways to mix tokens
under the same readout, on majority voting and locality.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt
from scipy import stats
from torch import Tensor, nn

from keelback.data import GaussianNoise, Locality, MajorityVoting, PatternBatch, sample_patterns
from keelback.data.patterns import stream
from keelback.dynamics import median_with_interval
from keelback.experiments.experiment import Experiment, Settings
from keelback.experiments.gated_reading import shown
from keelback.experiments.gated_trials import use_device
from keelback.experiments.outcome import Bars, Claim, Column, Figure, Mark, Outcome, Panel, Table
from keelback.experiments.run import Progress, Run, RunResult, Scalar
from keelback.experiments.store import StoredRun
from keelback.models.gated_mamba import PatternMamba
from keelback.models.gated_recurrences import (
    FixedDecay,
    GatedDeltaRule,
    GatedLinearAttention,
    GatedMixer,
    PatternClassifier,
    SoftmaxAttention,
)
from keelback.training.gradient_descent_models import ModelHistory, OptimizerName, train_models

ACCURACY = 0.95
"""Test accuracy that counts as learned."""

_Mixer = Callable[[int, int], nn.Module]

_MIXERS: dict[str, _Mixer] = {
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
_DEPTHS = {f"Mamba, {depth} layer{'s' * (depth > 1)}": depth for depth in (1, 2, 5)}


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
        """Model applications, deep stacks counted by their layers."""
        return float(self.trials * self.steps * 10 * _DEPTHS.get(self.model, 1))

    def batch_key(self) -> str:
        """Each model a batch of its own on the CPU; a GPU takes one after the other."""
        return self.kind if torch.cuda.is_available() else self.name

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
        together = (
            [[i] for i in range(len(seeds))] if self.model in _DEPTHS else [[*range(len(seeds))]]
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
                rows += [{"seed": seeds[i], **row} for row in _rows(models[i], test[i], history)]
        summary: dict[str, Scalar] = {
            "trials": self.trials,
            "parameters": sum(p.numel() for p in models[0].parameters() if p.requires_grad),
        }
        return RunResult(summary, rows)

    def build(self, seed: int) -> nn.Module:
        """The model at its initial weights."""
        generator = stream(seed, 2)
        dim, length = self.pattern.dim, self.pattern.length
        if self.model in _DEPTHS:
            return PatternMamba(dim, n_layers=_DEPTHS[self.model], generator=generator)
        mixer = _MIXERS[self.model](dim, length)
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
    return rows or [{**ended, "layer": None, "relevant": None, "irrelevant": None, "auc": None}]


def _auc(relevant: np.ndarray, irrelevant: np.ndarray) -> float:
    """Chance that a relevant token's gate is wider open than an irrelevant one's."""
    ranks = stats.rankdata(np.concatenate([relevant, irrelevant]))
    wins = ranks[: len(relevant)].sum() - len(relevant) * (len(relevant) + 1) / 2
    return float(wins / (len(relevant) * len(irrelevant)))


class GateAlignmentSettings(Settings):
    """Which data, and how many trials a model."""

    trials: PositiveInt | None = None


class GateAlignment(Experiment[GateAlignmentSettings]):
    """Full Mamba blocks, ablations and other recurrences: who learns which data at what cost."""

    name: ClassVar[str] = "gate-alignment"
    summary: ClassVar[str] = "do gates of full models select relevant tokens; who learns what?"
    settings_type = GateAlignmentSettings

    def runs(self, settings: GateAlignmentSettings) -> list[HarnessTrials]:
        """Every mixer, optimiser ablation and Mamba depth on both kinds of data."""
        quick = settings.quick
        length, dim = (10, 6) if quick else (14, 8)
        runs = []
        for pattern in (
            MajorityVoting(4 / length, 2 / length, length, dim),
            Locality(2, 6 if quick else 8, length, dim),
        ):
            shared: dict[str, Any] = {
                "pattern": pattern,
                "samples": 400 if quick else 1000,
                "test_samples": 200 if quick else 500,
                "steps": 150 if quick else 2000,
            }
            mixers = settings.trials or (2 if quick else 10)
            stacks = settings.trials or (1 if quick else 5)
            step = 1.0 if isinstance(pattern, MajorityVoting) else 5.0
            runs += [HarnessTrials(model=name, trials=mixers, **shared) for name in _MIXERS]
            runs += [
                HarnessTrials(
                    model="gated SSM",
                    trials=mixers,
                    optimizer=optimizer,
                    step_size=step,
                    batch_size=batch,
                    **shared,
                )
                for optimizer, batch in _OPTIMIZERS
            ]
            runs += [
                HarnessTrials(model=name, trials=stacks, step_size=0.003, **shared)
                for name, depth in _DEPTHS.items()
                if depth < 5 or not quick
            ]
        return runs

    def outcome(self, settings: GateAlignmentSettings, results: Sequence[StoredRun]) -> Outcome:
        """The table of who learns what, and how well each gate tells relevant tokens apart."""
        by_name = {result.name: result for result in results}
        found = [(run, by_name[run.name]) for run in self.runs(settings) if run.name in by_name]
        rows = [_model_row(run, stored) for run, stored in found]
        layers = [row for run, stored in found for row in _layer_rows(run, stored)]
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title="Gates of full models and other recurrences",
            summary=(
                f"{sum(row['trials'] for row in rows)} trainings of {len(rows)} models and data "
                f"sets by autograd; learned: test accuracy {ACCURACY:g}."
            ),
            claims=_claims(layers),
            figures=[_figure(settings, layers)],
            tables=[_model_table(settings, rows), _layer_table(settings, layers)],
            numbers={"setting": settings.label, "models": rows, "gates": layers},
        )


_OPTIMIZERS: tuple[tuple[Literal["gd", "sgd"], int | None], ...] = (("gd", None), ("sgd", 64))


def _data(run: HarnessTrials) -> str:
    return "majority" if isinstance(run.pattern, MajorityVoting) else "locality"


def _label(run: HarnessTrials) -> str:
    names = {"adam": "", "gd": ", full-batch descent", "sgd": ", SGD"}
    return run.model + names[run.optimizer]


def _endings(stored: StoredRun) -> list[dict[str, Any]]:
    """The row of each trial (its last layer's, which repeats how the trial ended)."""
    return list({row["seed"]: row for row in stored.history()}.values())


def _model_row(run: HarnessTrials, stored: StoredRun) -> dict[str, Any]:
    ends = _endings(stored)
    steps = np.array(
        [np.inf if e["steps_to_accuracy"] is None else e["steps_to_accuracy"] for e in ends]
    )
    return {
        "data": _data(run),
        "model": _label(run),
        "parameters": int(stored.summary["parameters"] or 0),
        "trials": len(ends),
        "learned": int(np.isfinite(steps).sum()),
        "steps": shown(median_with_interval(steps), ".0f"),
        "accuracy": float(np.median([e["best_accuracy"] for e in ends])),
        "diverged": sum(bool(e["diverged"]) for e in ends),
        "seconds": float(np.median([e["seconds"] for e in ends])),
    }


def _layer_rows(run: HarnessTrials, stored: StoredRun) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = list(stored.history())
    rows = []
    for layer in sorted({row["layer"] for row in history if row["layer"] is not None}):
        found = [row for row in history if row["layer"] == layer]
        auc = [row["auc"] for row in found]
        rows.append(
            {
                "data": _data(run),
                "model": _label(run),
                "layer": layer,
                "relevant": float(np.median([row["relevant"] for row in found])),
                "irrelevant": float(np.median([row["irrelevant"] for row in found])),
                "auc": float(np.median(auc)),
                "auc_low": min(auc),
                "auc_high": max(auc),
            }
        )
    return rows


def _claims(layers: Sequence[dict[str, Any]]) -> list[Claim]:
    claims = []
    for data in ("majority", "locality"):
        found = [r for r in layers if r["data"] == data and r["model"].startswith("Mamba")]
        if not found:
            continue
        selects = all(row["auc"] > 0.5 for row in found)
        best, worst = max(row["auc"] for row in found), min(row["auc"] for row in found)
        claims.append(
            Claim(
                f"The step size of full Mamba blocks is larger on relevant tokens ({data}).",
                "holds in every layer" if selects else "does not hold in every layer",
                f"chance that delta of a relevant token exceeds that of an irrelevant one: "
                f"{worst:.2f} to {best:.2f} over {len(found)} layers (0.5: no selection)",
                holds=selects,
            )
        )
    return claims


def _figure(settings: GateAlignmentSettings, layers: Sequence[dict[str, Any]]) -> Figure:
    panels = []
    for data in ("majority", "locality"):
        found = [row for row in layers if row["data"] == data]
        bars = Bars(
            [f"{row['model']}, {row['layer']}" for row in found],
            [row["auc"] for row in found],
            "",
            [row["auc_low"] for row in found],
            [row["auc_high"] for row in found],
        )
        panels.append(
            Panel(
                "model, layer",
                "chance that the gate ranks a relevant token above an irrelevant one",
                data,
                bars=[bars],
                marks=[Mark(0.5, "no selection", axis="y")],
                y_limits=(0.0, 1.0),
            )
        )
    return Figure(
        f"gate-alignment-{settings.label}",
        "Do gates select relevant tokens?",
        panels,
        "Median over trials, whiskers: least to most. Mamba: step sizes, averaged over channels.",
    )


def _model_table(settings: GateAlignmentSettings, rows: Sequence[dict[str, Any]]) -> Table:
    return Table(
        f"who-learns-what-{settings.label}",
        "Who learns which data, at what cost",
        [
            Column("data", "data"),
            Column("model", "model"),
            Column("parameters", "parameters"),
            Column("learned", "learned"),
            Column("trials", "trials"),
            Column("steps", f"median steps to {ACCURACY:g} (95 % interval)"),
            Column("accuracy", "best accuracy", ".3f"),
            Column("diverged", "diverged"),
            Column("seconds", "seconds a training", ".2f"),
        ],
        rows,
        "Best accuracy: median over trials of the best measured. Seconds: with all trials of a "
        "model side by side, but Mamba one after the other.",
    )


def _layer_table(settings: GateAlignmentSettings, layers: Sequence[dict[str, Any]]) -> Table:
    return Table(
        f"gates-{settings.label}",
        "How wide each gate opens after training",
        [
            Column("data", "data"),
            Column("model", "model"),
            Column("layer", "layer"),
            Column("relevant", "relevant tokens", ".3f"),
            Column("irrelevant", "irrelevant tokens", ".3f"),
            Column("auc", "ranking", ".2f"),
        ],
        layers,
        "Gate of the gated SSM, step size delta of Mamba, writing strength of the delta rule, "
        "share forgotten of gated linear attention; means over tokens, medians over trials.",
    )

"""Can a stack of Mamba blocks solve ListOps, where one selective SSM block cannot?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, PositiveInt

from keelback.experiments._shared.in_words import guessing_marks, in_words
from keelback.experiments._shared.on_task import OnTaskSettings
from keelback.experiments._shared.presets import LENGTH_INDEPENDENCE
from keelback.experiments._shared.scores import (
    divergence_tables,
    mean_and_std,
    survivors,
    with_spread,
)
from keelback.experiments.experiment import Experiment
from keelback.experiments.length.length_transfer_run import LengthTransferRun
from keelback.models import MambaClassifierConfig, SelectiveSSMConfig, model_config, parameter_count
from keelback.outcome import Claim, Column, Figure, Line, Outcome, Panel, Table
from keelback.sweeps.store import StoredRun
from keelback.training import Recipe

AIM = 0.45
"""Test accuracy that counts as solving: three times what one block reaches."""

_TOKENS, _CLASSES = 16, 10
_STACK_RECIPE: dict[str, Any] = {
    "learning_rate": 2e-3,
    "weight_decay": 0.0,
    "plateau_factor": 0.5,
    "plateau_patience": 1,
    "clip_norm": 1.0,
    "collapse_penalty": 0.0,
}

Row = dict[str, Any]
"""One model: size, survivors and accuracies."""


class MambaStackSettings(OnTaskSettings):
    """Depth and width of the stack, and how many generated trees it learns from."""

    task: Literal["listops"] = "listops"
    seeds: PositiveInt = 1
    seq_len: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1, max_length=1)
    min_length: PositiveInt | None = None
    """Also train on shorter trees, of more than so many tokens."""
    n_train: PositiveInt = 96_000
    n_test: PositiveInt = 2_000
    n_layers: PositiveInt = 4
    d_model: PositiveInt = 64
    batch_size: PositiveInt = 64

    @property
    def length(self) -> int:
        """The length of the test's trees, and of the longest that are trained on."""
        if self.seq_len is not None:
            return self.seq_len[0]
        return 50 if self.quick else 500


class MambaStack(Experiment[MambaStackSettings]):
    """A deeper model with convolution, gate, norm and residual, beside the paper's single block."""

    name: ClassVar[str] = "mamba-stack"
    summary: ClassVar[str] = "can a stack of Mamba blocks solve ListOps?"
    settings_type = MambaStackSettings
    tasks: ClassVar[tuple[str, ...]] = ("listops",)

    def runs(self, settings: MambaStackSettings) -> list[LengthTransferRun]:
        """The stack and the single block on the same trees, from each seed."""
        return [
            run
            for seed in settings.seed_range
            for run in (_stack(settings, seed), _block(settings, seed))
        ]

    def outcome(self, settings: MambaStackSettings, results: Sequence[StoredRun]) -> Outcome:
        """Accuracies of both, and their course over the epochs."""
        groups = {
            kind: [run for run in results if run.fields["model"]["kind"] == kind]
            for kind in ("mamba-stack", "selective-ssm")
        }
        rows = [_row(kind, settings.length, runs) for kind, runs in groups.items() if runs]
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title="A Mamba stack on ListOps",
            summary=(
                f"{settings.n_layers} blocks of width {settings.d_model} and one selective SSM "
                f"block, trained on {settings.n_train} generated trees, tested at "
                f"T = {settings.length}."
            ),
            claims=_claims(rows),
            figures=[_figure(groups, settings.paths)],
            tables=[_table(rows), *divergence_tables(f"{self.name}-{settings.label}", results)],
            numbers={"rows": rows},
        )


def _training(
    settings: MambaStackSettings, seed: int, model: dict[str, JsonValue], recipe: Recipe
) -> LengthTransferRun:
    sizes = {"n_train": settings.n_train, "n_test": settings.n_test}
    if settings.quick:
        sizes = {"n_train": 2000, "n_test": 500}
    bounds: dict[str, JsonValue] = {"seq_len": settings.length, "padding_side": "left"}
    if settings.min_length is not None:
        bounds["min_length"] = settings.min_length
    return LengthTransferRun(
        task=settings.task,
        task_settings={**sizes, **bounds, "data_seed": seed},
        model=model,
        recipe=recipe,
        seed=seed,
        test_lengths=(settings.length,),
    )


def _stack(settings: MambaStackSettings, seed: int) -> LengthTransferRun:
    config = MambaClassifierConfig(
        vocab_size=_TOKENS,
        n_classes=_CLASSES,
        d_model=settings.d_model,
        n_layers=2 if settings.quick else settings.n_layers,
    )
    epochs = settings.epochs or (3 if settings.quick else 20)
    recipe = Recipe(epochs=epochs, batch_size=settings.batch_size, **_STACK_RECIPE)
    return _training(settings, seed, config.model_dump(mode="json"), recipe)


def _block(settings: MambaStackSettings, seed: int) -> LengthTransferRun:
    chosen = LENGTH_INDEPENDENCE["listops"]
    config = SelectiveSSMConfig(
        vocab_size=_TOKENS,
        n_classes=_CLASSES,
        d_model=chosen.d_model,
        d_state=chosen.d_state,
    )
    epochs = settings.epochs or (3 if settings.quick else 20)
    recipe = Recipe(epochs=epochs, batch_size=chosen.batch_size)
    return _training(settings, seed, config.model_dump(mode="json"), recipe)


def _row(kind: str, length: int, runs: Sequence[StoredRun]) -> Row:
    alive = survivors(runs)
    row: Row = {
        "model": kind,
        "parameters": parameter_count(model_config(runs[0].fields["model"]).build()),
        "attempted": len(runs),
        "survived": len(alive),
        "epochs": max(int(run.summary["epochs"] or 0) for run in runs),
    }
    for name, key in (("train", "train_accuracy"), ("test", f"test_accuracy_at_{length}")):
        scores = [float(run.summary[key] or 0.0) for run in alive]
        row[name], row[f"{name}_std"] = mean_and_std(scores)
        row[f"{name}_by_seed"] = {
            str(run.fields["seed"]): score for run, score in zip(alive, scores, strict=True)
        }
    return row


def _claims(rows: Sequence[Row]) -> list[Claim]:
    stack = next((row for row in rows if row["model"] == "mamba-stack"), None)
    if stack is None or stack["test"] is None:
        return []
    reached = stack["test"] >= AIM
    scores = stack["test_by_seed"].values()
    spread = f", {min(scores):.3f} to {max(scores):.3f} by seed" if len(scores) > 1 else ""
    return [
        Claim(
            f"A stack of Mamba blocks labels at least {AIM:.0%} of the test trees right.",
            "holds" if reached else "does not hold",
            f"test accuracy {stack['test']:.3f}{spread}",
            holds=reached,
        )
    ]


def _figure(groups: dict[str, list[StoredRun]], paths: Mapping[str, Path]) -> Figure:
    losses: list[Line] = []
    accuracies: list[Line] = []
    for kind, runs in groups.items():
        for run in runs:
            rows = [row for row in run.history() if row.get("loss") is not None]
            epochs = [float(row["epoch"] or 0) for row in rows]
            for lines, key in ((losses, "loss"), (accuracies, "running_accuracy")):
                y = [None if row[key] is None else float(row[key] or 0) for row in rows]
                label = in_words(kind) if run is runs[0] else ""
                lines.append(Line(x=epochs, y=y, label=label, family=kind))
    marks = guessing_marks([run for runs in groups.values() for run in runs], paths)
    return Figure(
        name="mamba-stack-listops",
        title="Training on ListOps",
        panels=[
            Panel("epoch", "training loss, nats", lines=losses, log_y=True),
            Panel("epoch", "training accuracy", lines=accuracies, marks=marks),
        ],
        caption="One line per seed; accuracy over the epoch's batches as they were trained on.",
    )


def _table(rows: Sequence[Row]) -> Table:
    return Table(
        name="mamba-stack-listops",
        title="Stack and block",
        columns=[
            Column("model", "model"),
            Column("parameters", "parameters"),
            Column("survivors", "survived"),
            Column("epochs", "epochs"),
            Column("train", "train"),
            Column("test", "test"),
        ],
        rows=[
            {
                **row,
                "survivors": f"{row['survived']} of {row['attempted']}",
                "train": with_spread(row["train"], row["train_std"]),
                "test": with_spread(row["test"], row["test_std"]),
            }
            for row in rows
        ],
        caption="Parameters: without the embedding. Mean (standard deviation) over survivors.",
    )

"""Does the gap between training and test accuracy grow with the sequence length?

Experiment 2 of arXiv 2502.01473: a selective SSM that starts at spectral abscissa 0, trained at
each length from several seeds.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, JsonValue, PositiveInt
from scipy import stats

from keelback.experiments.experiment import Experiment, Settings
from keelback.experiments.outcome import Claim, Column, Figure, Line, Outcome, Panel, Table
from keelback.experiments.presets import (
    LENGTH_INDEPENDENCE,
    preset,
    published_accuracy,
    selective_ssm_run,
)
from keelback.experiments.store import StoredRun
from keelback.experiments.training_run import TrainingRun

Row = dict[str, Any]
"""One length: how many seeds survived, means and deviations, and the published figures."""


class LengthIndependenceSettings(Settings):
    """Task, lengths and seeds; what is not given is the paper's."""

    task: str = "majority"
    seq_len: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    seeds: PositiveInt = 5
    epochs: PositiveInt | None = None
    parametrisation: Literal["free", "stable"] = "free"
    abscissa: float | None = Field(default=None, allow_inf_nan=False)

    @property
    def label(self) -> str:
        """The task, and the parametrisation where it is not the paper's."""
        return self.task if self.parametrisation == "free" else f"{self.task}-stable"


class LengthIndependence(Experiment[LengthIndependenceSettings]):
    """Train and test accuracy against length, with every attempted seed counted."""

    name: ClassVar[str] = "length-independence"
    summary: ClassVar[str] = "does the train/test gap grow with the sequence length?"
    settings_type = LengthIndependenceSettings

    def runs(self, settings: LengthIndependenceSettings) -> list[TrainingRun]:
        """One training a length and seed, ordered by length, then seed."""
        chosen = preset(LENGTH_INDEPENDENCE, settings.task)
        model: dict[str, JsonValue] = {"parametrisation": settings.parametrisation}
        if settings.abscissa is not None:
            model["spectral_abscissa"] = settings.abscissa
        elif settings.parametrisation == "stable":
            model["spectral_abscissa"] = -0.01
        return [
            selective_ssm_run(
                settings.task,
                chosen,
                seq_len=seq_len,
                seed=seed,
                epochs=settings.epochs or chosen.epochs,
                **model,
            )
            for seq_len in _lengths(settings)
            for seed in range(1, settings.seeds + 1)
        ]

    def outcome(
        self, settings: LengthIndependenceSettings, results: Sequence[StoredRun]
    ) -> Outcome:
        """The paper's figure, the table beside the published values, and a test on the slope."""
        rows = [
            _row(settings.task, seq_len, [run for run in results if _length(run) == seq_len])
            for seq_len in _lengths(settings)
        ]
        slope = _gap_slope(results)
        survived = sum(row["survived"] for row in rows)
        numbers = {"task": settings.task, "rows": rows, "gap_slope": slope}
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title=f"Length independence: {settings.task}",
            summary=(
                f"{len(results)} selective SSMs, {settings.seeds} seeds at each of {len(rows)} "
                f"lengths, {survived} trained to the end."
            ),
            claims=[_claim(slope, rows)],
            figures=[_accuracy_figure(settings, rows), _gap_figure(settings, rows, results)],
            tables=[_table(settings, rows)],
            notes=_notes(rows, results),
            numbers=numbers,
        )


def _lengths(settings: LengthIndependenceSettings) -> tuple[int, ...]:
    chosen = preset(LENGTH_INDEPENDENCE, settings.task)
    if settings.seq_len is not None:
        return tuple(sorted(set(settings.seq_len)))
    return chosen.quick_lengths if settings.quick else chosen.lengths


def _length(run: StoredRun) -> int:
    return int(run.fields["task_settings"]["seq_len"])


def _survivors(runs: Sequence[StoredRun]) -> list[StoredRun]:
    return [run for run in runs if not run.summary["diverged"]]


def _mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    mean = float(np.mean(values)) if values else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def _row(task: str, seq_len: int, runs: Sequence[StoredRun]) -> Row:
    survivors = _survivors(runs)
    row: Row = {
        "seq_len": seq_len,
        "attempted": len(runs),
        "survived": len(survivors),
    }
    for split in ("train", "test"):
        values = [float(run.summary[f"{split}_accuracy"] or 0.0) for run in survivors]
        row[split], row[f"{split}_std"] = _mean_and_std(values)
    row["gap"] = row["train"] - row["test"] if row["train"] and row["test"] else None
    published = published_accuracy(task, seq_len)
    if published is not None:
        row["published_train"] = published.get("train")
        row["published_test"] = published["test"]
        row["published_test_std"] = published["test_std"]
        row["test_difference"] = _difference_in_standard_errors(row, published)
    return row


def _difference_in_standard_errors(row: Row, published: dict[str, float]) -> float | None:
    """Ours less the published mean, over the sum of both means' standard errors."""
    if row["test"] is None or row["test_std"] is None or not row["survived"]:
        return None
    ours = row["test_std"] / math.sqrt(row["survived"])
    theirs = published["test_std"] / math.sqrt(published["runs"])
    return (row["test"] - published["test"]) / (ours + theirs) if ours + theirs else None


def _gap_slope(results: Sequence[StoredRun]) -> dict[str, float] | None:
    """Least-squares slope of the gap per doubling of the length, with a 95 % interval."""
    survivors = _survivors(results)
    x = np.array([math.log2(_length(run)) for run in survivors])
    y = np.array([_gap(run) for run in survivors])
    if len(np.unique(x)) < 2 or len(x) < 3:
        return None
    fit = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(x) - 2) * fit.stderr)
    slope = float(fit.slope)
    return {"per_doubling": slope, "lower": slope - half, "upper": slope + half}


def _gap(run: StoredRun) -> float:
    return float(run.summary["train_accuracy"] or 0.0) - float(run.summary["test_accuracy"] or 0.0)


def _claim(slope: dict[str, float] | None, rows: Sequence[Row]) -> Claim:
    statement = "The gap between training and test accuracy does not grow with the length."
    if slope is None:
        return Claim(statement, "not tested", "it takes two lengths and three trained models")
    grows = slope["lower"] > 0
    span = f"from T = {rows[0]['seq_len']} to {rows[-1]['seq_len']}"
    return Claim(
        statement,
        "does not hold" if grows else "holds",
        f"slope of the gap per doubling of the length {span}: {slope['per_doubling']:+.4f}, "
        f"95 % interval {slope['lower']:+.4f} to {slope['upper']:+.4f}",
    )


def _accuracy_figure(settings: LengthIndependenceSettings, rows: Sequence[Row]) -> Figure:
    lines = [_band(rows, split, f"{split}, keelback") for split in ("train", "test")]
    for split in ("train", "test"):
        known = [row for row in rows if row.get(f"published_{split}") is not None]
        if known and settings.parametrisation == "free":
            lines.append(
                Line(
                    x=[row["seq_len"] for row in known],
                    y=[row[f"published_{split}"] for row in known],
                    label=f"{split}, published",
                    style="points",
                    family=split,
                )
            )
    return Figure(
        name=f"length-independence-{settings.label}",
        title=f"Accuracy against sequence length, {settings.task}",
        panels=[Panel("sequence length T", "accuracy", lines=lines)],
        caption="Mean over the seeds that trained to the end; band: one standard deviation.",
    )


def _band(rows: Sequence[Row], split: str, label: str) -> Line:
    means = [row[split] for row in rows]
    spreads = [row[f"{split}_std"] or 0.0 for row in rows]
    pairs = list(zip(means, spreads, strict=True))
    return Line(
        x=[row["seq_len"] for row in rows],
        y=means,
        label=label,
        lower=[None if mean is None else mean - spread for mean, spread in pairs],
        upper=[None if mean is None else mean + spread for mean, spread in pairs],
        family=split,
    )


def _gap_figure(
    settings: LengthIndependenceSettings,
    rows: Sequence[Row],
    results: Sequence[StoredRun],
) -> Figure:
    survivors = _survivors(results)
    mean = Line(
        x=[row["seq_len"] for row in rows],
        y=[row["gap"] for row in rows],
        label="mean",
        family="gap",
    )
    each = Line(
        x=[float(_length(run)) for run in survivors],
        y=[_gap(run) for run in survivors],
        label="one model",
        style="points",
        family="gap",
    )
    return Figure(
        name=f"gap-{settings.label}",
        title=f"Training less test accuracy, {settings.task}",
        panels=[Panel("sequence length T", "gap", lines=[mean, each], log_x=True, zero_line=True)],
        caption="Each point is one trained model.",
    )


def _table(settings: LengthIndependenceSettings, rows: Sequence[Row]) -> Table:
    columns = [
        Column("seq_len", "T"),
        Column("survived", "survived"),
        Column("attempted", "attempted"),
        Column("train", "train", ".3f"),
        Column("train_std", "std", ".3f"),
        Column("test", "test", ".3f"),
        Column("test_std", "std", ".3f"),
        Column("gap", "gap", "+.3f"),
    ]
    if any("published_test" in row for row in rows):
        columns += [
            Column("published_train", "published train", ".3f"),
            Column("published_test", "published test", ".3f"),
            Column("published_test_std", "std", ".3f"),
            Column("test_difference", "difference (SE)", "+.1f"),
        ]
    return Table(
        name=f"length-independence-{settings.label}",
        title="Accuracy by sequence length",
        columns=columns,
        rows=rows,
        caption=(
            "Difference: test accuracy less the published mean, divided by the sum of the two "
            "means' standard errors."
        ),
    )


def _notes(rows: Sequence[Row], results: Sequence[StoredRun]) -> list[str]:
    notes = []
    unstable = [run for run in _survivors(results) if float(run.summary["s_A"] or 0.0) > 0]
    if unstable:
        largest = max(float(run.summary["s_A"] or 0.0) for run in unstable)
        notes.append(
            f"{len(unstable)} of {len(results)} models ended with a positive spectral abscissa, "
            f"the largest {largest:+.4f}: they are trained well and not stable."
        )
    for run in results:
        if run.summary["diverged"]:
            notes.append(
                f"T = {_length(run)}, seed {run.fields['seed']} diverged in epoch "
                f"{run.summary['diverged_epoch']}, step {run.summary['diverged_step']}: "
                f"{run.summary['diverged_tensor']} was the first tensor to overflow."
            )
    far = [row for row in rows if abs(row.get("test_difference") or 0.0) > 2]
    notes += [
        f"T = {row['seq_len']}: the mean test accuracy is {row['test_difference']:+.1f} standard "
        "errors from the published one."
        for row in far
    ]
    return notes

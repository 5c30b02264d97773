"""Is the spectral abscissa driven to zero or below where training succeeds?

Experiment 1 of arXiv 2502.01473: selective SSMs that start unstable, or near the border, and are
trained for a few epochs. Swept: the length, from one abscissa; the abscissa, at one length.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from keelback.experiments._shared.in_words import in_words
from keelback.experiments._shared.on_task import OnTaskSettings
from keelback.experiments._shared.presets import (
    STABILITY_MARGIN,
    STABLE_START,
    MarginPreset,
    chosen_lengths,
    preset,
    selective_ssm_run,
)
from keelback.experiments._shared.published import published_margin
from keelback.experiments._shared.scores import divergence_tables
from keelback.experiments.experiment import Experiment
from keelback.outcome import Claim, Column, Figure, Line, Outcome, Panel, Table
from keelback.sweeps.store import StoredRun
from keelback.sweeps.training_run import TrainingRun

FAILED_LOSS = 10.0
"""A training failed if it diverged or its last loss exceeds this many times that of guessing."""
_SWEPT = {"length": "sequence length", "abscissa": "spectral abscissa at the start"}

Row = dict[str, Any]
"""One run: where it started, where it ended, and the published end of its like."""


class StabilityMarginSettings(OnTaskSettings):
    """Task, sweeps and seeds; what is not given is the paper's."""

    seq_len: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    abscissas: tuple[float, ...] | None = Field(default=None, min_length=1)
    seeds: PositiveInt = 1
    parametrisation: Literal["free", "stable"] = "free"

    @property
    def label(self) -> str:
        """The task, and the parametrisation where it is not the paper's."""
        return self.task if self.parametrisation == "free" else f"{self.task}-stable"


class StabilityMargin(Experiment[StabilityMarginSettings]):
    """Loss and spectral abscissa against epoch, one line a run."""

    name: ClassVar[str] = "stability-margin"
    summary: ClassVar[str] = "is the spectral abscissa driven below zero where training succeeds?"
    settings_type = StabilityMarginSettings
    tasks: ClassVar[tuple[str, ...]] = tuple(STABILITY_MARGIN)

    def runs(self, settings: StabilityMarginSettings) -> list[TrainingRun]:
        """The sweep of lengths, then the sweep of abscissas that it does not hold already.

        The abscissas are swept at the paper's length or, for a task that is not the paper's, at the
        longest of those that were asked for.
        """
        both = self._by_length(settings) + self._by_abscissa(settings)
        return list({run.name: run for run in both}.values())

    def _by_length(self, settings: StabilityMarginSettings) -> list[TrainingRun]:
        chosen = preset(STABILITY_MARGIN, settings.task).at(settings.quick)
        return [
            _run(settings, chosen, seq_len, _start(settings, chosen.abscissa), seed)
            for seq_len in chosen_lengths(settings.task, settings.seq_len, chosen.lengths)
            for seed in settings.seed_range
        ]

    def _by_abscissa(self, settings: StabilityMarginSettings) -> list[TrainingRun]:
        chosen = preset(STABILITY_MARGIN, settings.task).at(settings.quick)
        abscissas = settings.abscissas or chosen.abscissas[:: 5 if settings.quick else 1]
        seq_len = chosen.seq_len
        if not chosen.lengths:
            seq_len = max(chosen_lengths(settings.task, settings.seq_len, ()))
        return [
            _run(settings, chosen, seq_len, _start(settings, abscissa), seed)
            for abscissa in abscissas
            for seed in settings.seed_range
        ]

    def outcome(self, settings: StabilityMarginSettings, results: Sequence[StoredRun]) -> Outcome:
        """The paper's two figures, a table of ends, and what becomes of its claim."""
        stored = {result.name: result for result in results}
        sweeps = {
            "length": [stored[run.name] for run in self._by_length(settings) if run.name in stored],
            "abscissa": [
                stored[run.name] for run in self._by_abscissa(settings) if run.name in stored
            ],
        }
        rows = [_row(settings.task, result) for result in results]
        failed = [row for row in rows if row["failed"]]
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title=f"Stability margin: {in_words(settings.task)}",
            summary=(
                f"{len(rows)} selective SSMs from abscissas {rows[0]['abscissa']:g} and others; "
                f"{len(failed)} failed, of which "
                f"{sum(row['diverged'] for row in failed)} overflowed."
            ),
            claims=_claims(rows),
            figures=[_figure(settings, swept, runs) for swept, runs in sweeps.items() if runs],
            tables=[
                _table(settings, rows),
                _counts(settings, rows),
                *divergence_tables(f"{self.name}-{settings.label}", results),
            ],
            numbers={"task": settings.task, "rows": rows},
        )


def _start(settings: StabilityMarginSettings, abscissa: float) -> float:
    """The stable parametrisation cannot start at zero or above: it starts as far below instead."""
    if settings.parametrisation == "free":
        return abscissa
    return min(-abs(abscissa), STABLE_START)


def _run(
    settings: StabilityMarginSettings,
    chosen: MarginPreset,
    seq_len: int,
    abscissa: float,
    seed: int,
) -> TrainingRun:
    return selective_ssm_run(
        settings.task,
        chosen,
        seq_len=seq_len,
        seed=seed,
        epochs=settings.epochs,
        paths=settings.paths,
        spectral_abscissa=abscissa,
        parametrisation=settings.parametrisation,
    )


def _row(task: str, run: StoredRun) -> Row:
    start = float(run.fields["model"]["spectral_abscissa"])
    seq_len = int(run.fields["task_settings"]["seq_len"])
    chance = math.log(int(run.fields["model"]["n_classes"]))
    loss, diverged = run.summary["loss"], bool(run.summary["diverged"])
    return {
        "seq_len": seq_len,
        "abscissa": start,
        "seed": run.fields["seed"],
        "epochs": run.summary["epochs"],
        "s_A": run.summary["s_A"],
        "loss": loss,
        "diverged": diverged,
        "failed": diverged or loss is None or float(loss) > FAILED_LOSS * chance,
        "diverged_epoch": run.summary["diverged_epoch"],
        "diverged_step": run.summary["diverged_step"],
        "diverged_tensor": run.summary["diverged_tensor"],
        **_published_ends(task, seq_len, start, FAILED_LOSS * chance),
    }


def _published_ends(task: str, seq_len: int, abscissa: float, failed_loss: float) -> Row:
    ends = published_margin(task, seq_len, abscissa)
    if not ends:
        return {}
    return {
        "published_s_A": sum(end["s_A"] for end in ends) / len(ends),
        "published_loss": sum(end["loss"] for end in ends) / len(ends),
        "published_runs": len(ends),
        "published_failed": sum(end["loss"] > failed_loss for end in ends),
    }


def _claims(rows: Sequence[Row]) -> list[Claim]:
    trained = [row for row in rows if not row["failed"]]
    failed = [row for row in rows if row["failed"]]
    rose = [row for row in trained if row["s_A"] > max(0.0, row["abscissa"])]
    unstable_start = [row for row in trained if row["abscissa"] > 0]
    fell = [row for row in unstable_start if row["s_A"] < row["abscissa"]]
    above = [row for row in trained if row["s_A"] > 0]
    claims = []
    if unstable_start:
        claims.append(
            Claim(
                "Where training succeeds from an unstable start, it lowers the spectral abscissa.",
                "holds" if len(fell) == len(unstable_start) else "does not hold",
                f"{len(fell)} of {len(unstable_start)} trained models ended below their start",
                holds=len(fell) == len(unstable_start),
            )
        )
    if trained:
        highest = max(row["s_A"] for row in trained)
        claims.append(
            Claim(
                "Where training succeeds, the spectral abscissa ends at zero or below.",
                "holds" if not above else "does not hold",
                f"{len(above)} of {len(trained)} trained models ended above zero, the highest at "
                f"{highest:+.4f}; {len(rose)} ended above zero and above their start",
                holds=not above,
            )
        )
    if failed:
        positive = [row for row in failed if row["s_A"] > 0]
        claims.append(
            Claim(
                "Where training fails, the spectral abscissa stayed positive.",
                "holds" if len(positive) == len(failed) else "does not hold",
                f"{len(positive)} of {len(failed)} failed models ended with a positive one",
                holds=len(positive) == len(failed),
            )
        )
    return claims


def _figure(settings: StabilityMarginSettings, swept: str, runs: Sequence[StoredRun]) -> Figure:
    losses, abscissas = [], []
    labelled: set[str] = set()
    for run in runs:
        history = run.history()
        label = (
            f"T = {run.fields['task_settings']['seq_len']}"
            if swept == "length"
            else f"start {run.fields['model']['spectral_abscissa']:+.2f}"
        )
        epochs = [_number(row["epoch"]) for row in history]
        family, label = label, "" if label in labelled else label
        labelled.add(family)
        abscissas.append(
            Line(x=epochs, y=[_number(row["s_A"]) for row in history], label=label, family=family)
        )
        trained = [row for row in history if row.get("loss") is not None]
        if not trained:
            continue
        losses.append(
            Line(
                x=[_number(row["epoch"]) for row in trained],
                y=[_number(row["loss"]) for row in trained],
                label=label,
                family=family,
            )
        )
    return Figure(
        name=f"stability-margin-{settings.label}-by-{swept}",
        title=(
            f"Training from near the border of stability, {in_words(settings.task)}, by "
            f"{_SWEPT[swept]}"
        ),
        panels=[
            *([Panel("epoch", "training loss, nats", lines=losses, log_y=True)] if losses else []),
            Panel("epoch", "spectral abscissa s_A", lines=abscissas, zero_line=True),
        ],
        caption="One line per run; epoch 0 is the start. A line that ends early overflowed.",
    )


def _number(value: Any) -> float:
    return float(value)


def _table(settings: StabilityMarginSettings, rows: Sequence[Row]) -> Table:
    columns = [
        Column("seq_len", "T"),
        Column("abscissa", "s_A at start", "+.2f"),
        Column("seed", "seed"),
        Column("end", "end"),
        Column("s_A", "s_A", "+.4f"),
        Column("loss", "loss", ".3g"),
    ]
    if any("published_s_A" in row for row in rows):
        columns += [
            Column("published_s_A", "s_A, published", "+.4f"),
            Column("published_loss", "loss, published", ".3g"),
        ]
    return Table(
        name=f"stability-margin-{settings.label}",
        title="Where each run ended",
        columns=columns,
        rows=[{**row, "end": _end(row)} for row in rows],
        caption=(
            f"Failed: the last loss exceeds {FAILED_LOSS:g} times that of guessing. Published: the "
            "reference's last logged epoch, the mean where it logged several seeds."
        ),
    )


def _end(row: Row) -> str:
    return "overflowed" if row["diverged"] else "failed" if row["failed"] else "trained"


def _counts(settings: StabilityMarginSettings, rows: Sequence[Row]) -> Table:
    """How many seeds of each length and start ended how."""
    alike: dict[tuple[int, float], list[Row]] = defaultdict(list)
    for row in rows:
        alike[row["seq_len"], row["abscissa"]].append(row)
    ends = ("trained", "failed", "overflowed")
    return Table(
        name=f"ends-stability-margin-{settings.label}",
        title="How many seeds ended how",
        columns=[
            Column("seq_len", "T"),
            Column("abscissa", "s_A at start", "+.2f"),
            *(Column(end, end) for end in ends),
            Column("above_zero", "trained, s_A above 0"),
            Column("published", "published"),
        ],
        rows=[
            {
                "seq_len": seq_len,
                "abscissa": start,
                **{end: sum(_end(row) == end for row in group) for end in ends},
                "above_zero": sum(_end(row) == "trained" and row["s_A"] > 0 for row in group),
                "published": _published_end(group[0]),
            }
            for (seq_len, start), group in sorted(alike.items())
        ],
        caption="Published: the ends of the runs that the reference logged.",
    )


def _published_end(row: Row) -> str:
    """The same of the reference's logged runs, as text; empty where it logged none."""
    failed = row.get("published_failed", 0)
    counts = {"trained": row.get("published_runs", 0) - failed, "failed": failed}
    return ", ".join(f"{count} {end}" for end, count in counts.items() if count)

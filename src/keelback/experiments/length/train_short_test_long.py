"""Does a model trained at one length work at lengths up to sixteen times as long?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from keelback.experiments._shared.in_words import guessing_marks, in_words
from keelback.experiments._shared.on_task import OnTaskSettings
from keelback.experiments._shared.presets import (
    LENGTH_INDEPENDENCE,
    chosen_lengths,
    preset,
    selective_ssm_run,
    stable_model,
)
from keelback.experiments._shared.scores import (
    VERDICTS,
    PairedDifference,
    divergence_tables,
    mean_and_std,
    paired_difference,
    survivors,
    with_spread,
)
from keelback.experiments.experiment import Experiment
from keelback.experiments.length.length_transfer_run import LengthTransferRun
from keelback.outcome import Claim, Column, Figure, Line, Outcome, Panel, Table
from keelback.sweeps.store import StoredRun

Row = dict[str, Any]
"""One way to start and one test length: survivors, accuracy, difference from the trained length."""


@dataclass(frozen=True)
class _Start:
    """A parametrisation and where its abscissa starts."""

    label: str
    model: Mapping[str, Any]


STARTS = (
    _Start("free, start 0", {"spectral_abscissa": 0.0}),
    _Start("free, start +0.1", {"spectral_abscissa": 0.1}),
    _Start("stable", stable_model()),
)

_SHORT = {"majority": 50, "listops": 100, "imdb": 100}
_QUICK_SHORT = {"majority": 20, "listops": 50, "imdb": 50}


class TrainShortTestLongSettings(OnTaskSettings):
    """Task, the length to train at, and by which factors to exceed it."""

    seq_len: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1, max_length=1)
    factors: tuple[PositiveInt, ...] = Field(default=(1, 2, 4, 8, 16), min_length=1)

    @property
    def trained_length(self) -> int:
        """The length that the models are trained at."""
        paper = (_QUICK_SHORT if self.quick else _SHORT).get(self.task)
        return chosen_lengths(self.task, self.seq_len, () if paper is None else (paper,))[0]

    @property
    def test_lengths(self) -> tuple[int, ...]:
        """The lengths that they are tested at, the trained one first."""
        return tuple(factor * self.trained_length for factor in sorted({1, *self.factors}))


class TrainShortTestLong(Experiment[TrainShortTestLongSettings]):
    """Test accuracy against length beyond the trained one, beside the spectral abscissa."""

    name: ClassVar[str] = "train-short-test-long"
    summary: ClassVar[str] = "does a model work at lengths that it was not trained at?"
    settings_type = TrainShortTestLongSettings
    tasks: ClassVar[tuple[str, ...]] = tuple(LENGTH_INDEPENDENCE)

    def runs(self, settings: TrainShortTestLongSettings) -> list[LengthTransferRun]:
        """One training a start and seed; padding, where a task has any, in front."""
        chosen = preset(LENGTH_INDEPENDENCE, settings.task).at(settings.quick)
        trained = [
            selective_ssm_run(
                settings.task,
                chosen,
                seq_len=settings.trained_length,
                seed=seed,
                epochs=settings.epochs,
                paths=settings.paths,
                padding_side="left",
                **start.model,
            )
            for start in STARTS
            for seed in settings.seed_range
        ]
        return [
            LengthTransferRun(**dict(run), test_lengths=settings.test_lengths) for run in trained
        ]

    def outcome(
        self, settings: TrainShortTestLongSettings, results: Sequence[StoredRun]
    ) -> Outcome:
        """Accuracy against length for each start, and against the final abscissa at the longest."""
        groups = {start.label: [run for run in results if _is(run, start)] for start in STARTS}
        groups = {label: runs for label, runs in groups.items() if runs}
        rows = [
            _row(label, length, settings.trained_length, runs)
            for label, runs in groups.items()
            for length in settings.test_lengths
        ]
        longest = settings.test_lengths[-1]
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title=f"Train short, test long: {in_words(settings.task)}",
            summary=(
                f"Selective SSMs trained at T = {settings.trained_length} and tested at up to "
                f"T = {longest}; {len(survivors(results))} of {len(results)} trained to the end."
            ),
            claims=[_claim(label, settings, runs) for label, runs in groups.items()],
            figures=[_figure(settings, rows, groups)],
            tables=[
                _table(settings, rows),
                *divergence_tables(f"{self.name}-{settings.label}", results),
            ],
            notes=_notes(settings),
            numbers={
                "task": settings.task,
                "trained_length": settings.trained_length,
                "rows": rows,
                "rank_correlation": _rank_correlation(results, longest),
            },
        )


def _is(run: StoredRun, start: _Start) -> bool:
    model = {"parametrisation": "free", **start.model}
    return all(run.fields["model"][name] == value for name, value in model.items())


def _at(run: StoredRun, length: int) -> float:
    return float(run.summary[f"test_accuracy_at_{length}"] or 0.0)


def _change(runs: Sequence[StoredRun], length: int, trained: int) -> PairedDifference | None:
    """Accuracy at `length` less that at the trained length, paired by model."""
    alive = survivors(runs)
    return paired_difference(
        {run.name: _at(run, length) for run in alive},
        {run.name: _at(run, trained) for run in alive},
    )


def _row(label: str, length: int, trained: int, runs: Sequence[StoredRun]) -> Row:
    alive = survivors(runs)
    mean, std = mean_and_std([_at(run, length) for run in alive])
    change = _change(runs, length, trained) if length != trained else None
    return {
        "start": label,
        "test_length": length,
        "attempted": len(runs),
        "survived": len(alive),
        "test": mean,
        "test_std": std,
        "change": change.as_dict() if change else None,
        "largest_s_A": max((float(run.summary["s_A"] or 0.0) for run in alive), default=None),
    }


def _claim(label: str, settings: TrainShortTestLongSettings, runs: Sequence[StoredRun]) -> Claim:
    longest, trained = settings.test_lengths[-1], settings.trained_length
    statement = (
        f"{label}: at T = {longest} the models are as accurate as at T = {trained}, where they "
        "were trained, within one point."
    )
    change = _change(runs, longest, trained)
    if change is None:
        return Claim(statement, "not decided", "no model survived")
    holds = change.no_worse()
    evidence = f"accuracy at T = {longest} less that at T = {trained}, by model: {change.text()}"
    return Claim(statement, VERDICTS[holds], evidence, holds=holds)


def _rank_correlation(results: Sequence[StoredRun], length: int) -> dict[str, float] | None:
    """Spearman's correlation of the final abscissa with the accuracy at `length`, over all runs."""
    from scipy import stats  # slow to import

    alive = survivors(results)
    abscissas = [float(run.summary["s_A"] or 0.0) for run in alive]
    scores = [_at(run, length) for run in alive]
    if len(set(abscissas)) < 3 or len(set(scores)) < 3:
        return None
    found = stats.spearmanr(abscissas, scores)
    return {"rho": float(found.statistic), "p_value": float(found.pvalue), "models": len(alive)}


def _figure(
    settings: TrainShortTestLongSettings,
    rows: Sequence[Row],
    groups: Mapping[str, Sequence[StoredRun]],
) -> Figure:
    curves, points = [], []
    longest = settings.test_lengths[-1]
    for label, runs in groups.items():
        own = [row for row in rows if row["start"] == label and row["test"] is not None]
        curves.append(
            Line(
                x=[row["test_length"] for row in own],
                y=[row["test"] for row in own],
                lower=[row["test"] - (row["test_std"] or 0.0) for row in own],
                upper=[row["test"] + (row["test_std"] or 0.0) for row in own],
                label=label,
                family=label,
            )
        )
        alive = survivors(runs)
        points.append(
            Line(
                x=[float(run.summary["s_A"] or 0.0) for run in alive],
                y=[_at(run, longest) for run in alive],
                label=label,
                style="points",
                family=label,
            )
        )
    marks = guessing_marks([run for runs in groups.values() for run in runs], settings.paths)
    return Figure(
        name=f"train-short-test-long-{settings.label}",
        title=f"Trained at T = {settings.trained_length}, {in_words(settings.task)}",
        panels=[
            Panel(
                "length of the test sequences",
                "test accuracy",
                lines=curves,
                log_x=True,
                marks=marks,
            ),
            Panel(
                "spectral abscissa s_A after training",
                f"test accuracy at T = {longest}",
                lines=points,
                marks=marks,
            ),
        ],
        caption=(
            "Left: mean over the seeds that survived; bands: one standard deviation over them. "
            "Right: each point is one trained model."
        ),
    )


def _table(settings: TrainShortTestLongSettings, rows: Sequence[Row]) -> Table:
    shown = []
    for row in rows:
        change = row["change"] or {}
        shown.append(
            {
                "start": row["start"],
                "test_length": row["test_length"],
                "survivors": f"{row['survived']} of {row['attempted']}",
                "test": with_spread(row["test"], row["test_std"]),
                "change": change.get("mean"),
                "p_value": change.get("p_value"),
                "s_A": row["largest_s_A"],
            }
        )
    return Table(
        name=f"train-short-test-long-{settings.label}",
        title=f"Test accuracy of models trained at T = {settings.trained_length}",
        columns=[
            Column("start", "matrix A"),
            Column("test_length", "test T"),
            Column("survivors", "survived"),
            Column("test", "test"),
            Column("change", "change from the training length", "+.4f"),
            Column("p_value", "p-value", ".2g"),
            Column("s_A", "largest s_A", "+.4f"),
        ],
        rows=shown,
        caption=(
            "Mean (standard deviation) over the survivors. Change: from the trained length, paired "
            "by model, with a t-test."
        ),
    )


def _notes(settings: TrainShortTestLongSettings) -> list[str]:
    if settings.task == "majority":
        return ["Strings have no padding. The test strings are clean at every length."]
    if settings.task not in LENGTH_INDEPENDENCE:
        return []
    return [
        "Padding stands in front of the sequence, in training and in testing, so that the head "
        "always reads the sequence's own last token and a longer test adds text, not padding "
        "behind it."
    ]

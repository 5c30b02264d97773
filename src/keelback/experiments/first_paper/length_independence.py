"""Does the gap between training and test accuracy grow with the sequence length?

Experiment 2 of arXiv 2502.01473: a selective SSM that starts at spectral abscissa 0, trained at
each length from several seeds.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from keelback.data import best_count_rule
from keelback.experiments._shared.in_words import guessing_marks, in_words
from keelback.experiments._shared.on_task import OnTaskSettings
from keelback.experiments._shared.presets import (
    LENGTH_INDEPENDENCE,
    chosen_lengths,
    preset,
    selective_ssm_run,
    stable_model,
)
from keelback.experiments._shared.published import published_accuracy
from keelback.experiments._shared.scores import (
    VERDICTS,
    accuracy_of,
    divergence_tables,
    mean_and_std,
    seed_table,
    seq_len_of,
    survivors,
    with_spread,
)
from keelback.experiments.experiment import Experiment
from keelback.outcome import Claim, Column, Figure, Line, Outcome, Panel, Table
from keelback.sweeps.store import StoredRun
from keelback.sweeps.training_run import TrainingRun

GROWTH = 0.01
"""Growth of the gap a doubling of the length that has to be excluded for it to count as none."""

Row = dict[str, Any]
"""One length: how many seeds survived, means and deviations, and the published figures."""


class LengthIndependenceSettings(OnTaskSettings):
    """Task, lengths and seeds; what is not given is the paper's.

    `norm_precision`: float64 clips gradients by norms that cannot overflow.
    """

    seq_len: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    parametrisation: Literal["free", "stable"] = "free"
    abscissa: float | None = Field(default=None, allow_inf_nan=False)
    norm_precision: Literal["float32", "float64"] = "float32"

    @property
    def label(self) -> str:
        """The task, and what is not the paper's: parametrisation, precision of the norm."""
        stable = "-stable" if self.parametrisation == "stable" else ""
        return self.task + stable + ("-float64-norm" if self.norm_precision == "float64" else "")

    @property
    def described(self) -> str:
        """The same, for a title."""
        stable = ", stable" if self.parametrisation == "stable" else ""
        norm = ", norms in float64" if self.norm_precision == "float64" else ""
        return self.task + stable + norm

    @property
    def titled(self) -> str:
        """The same, with the name that people give the task."""
        return self.described.replace(self.task, in_words(self.task), 1)


class LengthIndependence(Experiment[LengthIndependenceSettings]):
    """Train and test accuracy against length, with every attempted seed counted."""

    name: ClassVar[str] = "length-independence"
    summary: ClassVar[str] = "does the train/test gap grow with the sequence length?"
    settings_type = LengthIndependenceSettings
    tasks: ClassVar[tuple[str, ...]] = tuple(LENGTH_INDEPENDENCE)

    def runs(self, settings: LengthIndependenceSettings) -> list[TrainingRun]:
        """One training a length and seed, ordered by length, then seed."""
        chosen = preset(LENGTH_INDEPENDENCE, settings.task).at(settings.quick)
        model: dict[str, Any] = {}
        if settings.parametrisation == "stable":
            model |= stable_model()
        if settings.abscissa is not None:
            model["spectral_abscissa"] = settings.abscissa
        return [
            selective_ssm_run(
                settings.task,
                chosen,
                seq_len=seq_len,
                seed=seed,
                epochs=settings.epochs,
                paths=settings.paths,
                norm_precision=settings.norm_precision,
                **model,
            )
            for seq_len in _lengths(settings)
            for seed in settings.seed_range
        ]

    def outcome(
        self, settings: LengthIndependenceSettings, results: Sequence[StoredRun]
    ) -> Outcome:
        """The paper's figure, the table beside the published values, and tests on the slopes."""
        rows = [
            _row(settings.task, seq_len, alike)
            for seq_len in _lengths(settings)
            if (alike := [run for run in results if seq_len_of(run) == seq_len])
        ]
        slopes = {
            name: slope
            for name, measure in _MEASURES.items()
            if (slope := _slope(results, measure)) is not None
        }
        survived = sum(row["survived"] for row in rows)
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title=f"Length independence: {settings.titled}",
            summary=(
                f"{len(results)} selective SSMs, {settings.seeds} seeds at each of {len(rows)} "
                f"lengths, {survived} trained to the end."
            ),
            claims=_claims(slopes, rows),
            figures=[
                _accuracy_figure(settings, rows, results),
                _gap_figure(settings, rows, results),
            ],
            tables=[
                _table(settings, rows),
                seed_table(f"{self.name}-{settings.label}", results),
                *divergence_tables(f"{self.name}-{settings.label}", results),
            ],
            notes=_notes(rows, results),
            numbers={"task": settings.task, "rows": rows, "slopes": slopes},
        )


def _lengths(settings: LengthIndependenceSettings) -> tuple[int, ...]:
    papers = preset(LENGTH_INDEPENDENCE, settings.task).at(settings.quick).lengths
    return tuple(sorted(set(chosen_lengths(settings.task, settings.seq_len, papers))))


def _row(task: str, seq_len: int, runs: Sequence[StoredRun]) -> Row:
    trained = survivors(runs)
    row: Row = {"seq_len": seq_len, "attempted": len(runs), "survived": len(trained)}
    for split in _splits_of(runs):
        values = [accuracy_of(run, split) for run in trained]
        row[split], row[f"{split}_std"] = mean_and_std(values)
    for name, measure in _MEASURES.items():
        values = [value for run in trained if (value := measure(run)) is not None]
        row[name], _ = mean_and_std(values)
    published = published_accuracy(task, seq_len)
    if published is not None:
        row["published_train"] = published.get("train")
        row["published_test"] = published["test"]
        row["published_test_std"] = published["test_std"]
        row["test_difference"] = _difference_in_standard_errors(row, published)
    if task == "majority":
        ceiling = best_count_rule(seq_len)
        row["best_rule_train"] = ceiling.noisy_accuracy
        row["best_rule_test"] = ceiling.clean_accuracy
    return row


def _difference_in_standard_errors(row: Row, published: dict[str, float]) -> float | None:
    """Ours less the published mean, over the sum of both means' standard errors."""
    if row["test"] is None or row["test_std"] is None or not row["survived"]:
        return None
    ours = row["test_std"] / math.sqrt(row["survived"])
    theirs = published["test_std"] / math.sqrt(published["runs"])
    return (row["test"] - published["test"]) / (ours + theirs) if ours + theirs else None


def _splits_of(runs: Sequence[StoredRun]) -> list[str]:
    """`train`, `test`, and `fresh` where the test split is shifted."""
    known = runs[0].summary if runs else {}
    return [split for split in ("train", "test", "fresh") if f"{split}_accuracy" in known]


def _gap(run: StoredRun) -> float:
    return accuracy_of(run, "train") - accuracy_of(run, "test")


def _fresh_gap(run: StoredRun) -> float | None:
    fresh = "fresh_accuracy" in run.summary
    return accuracy_of(run, "train") - accuracy_of(run, "fresh") if fresh else None


_MEASURES: dict[str, Callable[[StoredRun], float | None]] = {"gap": _gap, "fresh_gap": _fresh_gap}
"""What may grow with the length, of each run."""


def _slope(
    results: Sequence[StoredRun], measure: Callable[[StoredRun], float | None]
) -> dict[str, float] | None:
    """Least-squares slope of a measure per doubling of the length, with a 95 % interval."""
    from scipy import stats  # slow to import

    points = [
        (math.log2(seq_len_of(run)), value)
        for run in survivors(results)
        if (value := measure(run)) is not None
    ]
    if len({x for x, _ in points}) < 2 or len(points) < 3:
        return None
    fit = stats.linregress(*zip(*points, strict=True))
    alike = len({value for _, value in points}) == 1  # Then the error is 0, where SciPy says NaN.
    half = 0.0 if alike else float(stats.t.ppf(0.975, len(points) - 2) * fit.stderr)
    slope = float(fit.slope)
    return {"per_doubling": slope, "lower": slope - half, "upper": slope + half}


def _published_slope(rows: Sequence[Row]) -> str:
    """The same slope of the published means, as a clause; nothing where none are published."""
    from scipy import stats  # slow to import

    known = [row for row in rows if row.get("published_train") is not None]
    if len(known) < 2:
        return ""
    x = [math.log2(row["seq_len"]) for row in known]
    y = [row["published_train"] - row["published_test"] for row in known]
    return f"; of the published means {float(stats.linregress(x, y).slope):+.4f}"


def _claims(slopes: dict[str, dict[str, float]], rows: Sequence[Row]) -> list[Claim]:
    statements = {
        "gap": "The gap between training and test accuracy does not grow with the length.",
        "fresh_gap": "The gap between training accuracy and the accuracy on fresh examples of the "
        "training distribution does not grow with the length.",
    }
    span = f"from T = {rows[0]['seq_len']} to {rows[-1]['seq_len']}"
    published = {"gap": _published_slope(rows)}
    return [
        Claim(
            statements[name],
            VERDICTS[_grows_not(slope)],
            f"slope per doubling of the length {span}: {slope['per_doubling']:+.4f}, "
            f"95 % interval {slope['lower']:+.4f} to {slope['upper']:+.4f}"
            f"{published.get(name, '')}",
            holds=_grows_not(slope),
        )
        for name, slope in slopes.items()
    ]


def _grows_not(slope: dict[str, float]) -> bool | None:
    """Whether growth is excluded: `None` where the interval holds zero and a point a doubling."""
    if slope["lower"] > 0:
        return False
    return True if slope["upper"] <= GROWTH else None


def _accuracy_figure(
    settings: LengthIndependenceSettings, rows: Sequence[Row], results: Sequence[StoredRun]
) -> Figure:
    lines = [_band(rows, split, f"{split}, keelback") for split in ("train", "test")]
    dashed = {"published": "points", "best_rule": "dashed"}
    for source, style in dashed.items():
        for split in ("train", "test"):
            known = [row for row in rows if row.get(f"{source}_{split}") is not None]
            if known and settings.parametrisation == "free":
                lines.append(
                    Line(
                        x=[row["seq_len"] for row in known],
                        y=[row[f"{source}_{split}"] for row in known],
                        label=f"{split}, {source.replace('_', ' ')}",
                        style=style,
                        family=split,
                    )
                )
    caption = (
        "Lines: mean over the seeds that trained to the end. Bands: one standard deviation over "
        "them. Points: the published means."
    )
    marks = guessing_marks(results, settings.paths)
    if settings.task == "majority":
        caption += (
            " Best rule: the count threshold that is right most often on the noisy training "
            "distribution, and the same threshold on clean test strings."
        )
    return Figure(
        name=f"length-independence-{settings.label}",
        title=f"Accuracy against sequence length, {settings.titled}",
        panels=[Panel("sequence length T", "accuracy", lines=lines, marks=marks)],
        caption=caption,
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
    settings: LengthIndependenceSettings, rows: Sequence[Row], results: Sequence[StoredRun]
) -> Figure:
    labels = {"gap": "training less test", "fresh_gap": "training less fresh examples"}
    lines = []
    for name, measure in _MEASURES.items():
        points = [
            (seq_len_of(run), value)
            for run in survivors(results)
            if (value := measure(run)) is not None
        ]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        lengths = [row["seq_len"] for row in rows]
        lines.append(
            Line(x=lengths, y=[row[name] for row in rows], label=labels[name], family=name)
        )
        lines.append(Line(x=x, y=y, style="points", family=name))
    return Figure(
        name=f"gap-{settings.label}",
        title=f"Gaps in accuracy, {settings.titled}",
        panels=[Panel("sequence length T", "difference in accuracy", lines=lines, zero_line=True)],
        caption="Lines: means over the trained models. Each point is one trained model.",
    )


def _table(settings: LengthIndependenceSettings, rows: Sequence[Row]) -> Table:
    columns = [Column("seq_len", "T"), Column("survivors", "survived")]
    splits = [split for split in ("train", "test", "fresh") if split in rows[0]]
    columns += [Column(split, split) for split in splits]
    columns.append(Column("gap", "gap", "+.3f"))
    if any("published_test" in row for row in rows):
        columns += [
            Column("published_train", "train, paper", ".3f"),
            Column("published_test", "test, paper"),
            Column("test_difference", "errors apart", "+.1f"),
        ]
    return Table(
        name=f"length-independence-{settings.label}",
        title="Accuracy by sequence length",
        columns=columns,
        rows=[_shown(row) for row in rows],
        caption=(
            "Mean (standard deviation) over the seeds that survived. "
            + ("Fresh: new examples of the training distribution. " if "fresh" in splits else "")
            + "Errors apart: test accuracy less the paper's mean, divided by the sum of the two "
            "means' standard errors."
        ),
    )


def _shown(row: Row) -> Row:
    """A row with each mean and its deviation in one cell."""
    shown = {**row, "survivors": f"{row['survived']} of {row['attempted']}"}
    for name in ("train", "test", "fresh", "published_test"):
        shown[name] = with_spread(row.get(name), row.get(f"{name}_std"))
    return shown


def _notes(rows: Sequence[Row], results: Sequence[StoredRun]) -> list[str]:
    notes = []
    unstable = [run for run in survivors(results) if float(run.summary["s_A"] or 0.0) > 0]
    if unstable:
        largest = max(float(run.summary["s_A"] or 0.0) for run in unstable)
        notes.append(
            f"{len(unstable)} of {len(results)} models ended with a positive spectral abscissa, "
            f"the largest {largest:+.4f}: they are trained well and not stable."
        )
    far = [row for row in rows if abs(row.get("test_difference") or 0.0) > 2]
    notes += [
        f"T = {row['seq_len']}: the mean test accuracy is {row['test_difference']:+.1f} standard "
        "errors from the published one."
        for row in far
    ]
    return notes

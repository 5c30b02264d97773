"""What does it cost to make the selective SSM stable by construction?

The sweep of experiment 2 of arXiv 2502.01473 twice, with A free and with A below zero by
construction, on the same data from the same seeds.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from keelback.experiments._shared.in_words import guessing_marks, in_words
from keelback.experiments._shared.on_task import OnTaskSettings
from keelback.experiments._shared.scores import (
    VERDICTS,
    PairedDifference,
    accuracy_of,
    divergence_tables,
    mean_and_std,
    seed_table,
    seq_len_of,
    shared_by_seed,
    survivors,
    with_spread,
)
from keelback.experiments.experiment import Experiment
from keelback.experiments.first_paper.length_independence import (
    LengthIndependence,
    LengthIndependenceSettings,
)
from keelback.outcome import Claim, Column, Figure, Line, Outcome, Panel, Table
from keelback.sweeps.store import StoredRun
from keelback.sweeps.training_run import TrainingRun

Parametrisation = Literal["free", "stable"]

_BOTH: tuple[Parametrisation, ...] = ("free", "stable")
_SPLITS = ("train", "test")

Row = dict[str, Any]
"""One length: survivors, accuracies and abscissas of both, and their paired difference."""


class StableByConstructionSettings(OnTaskSettings):
    """Task, lengths and seeds; what is not given is the paper's."""

    seq_len: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)

    def sweep(self, parametrisation: Parametrisation) -> LengthIndependenceSettings:
        """The settings of one of the two sweeps."""
        shared = self.model_dump()
        return LengthIndependenceSettings(**shared, parametrisation=parametrisation)


class StableByConstruction(Experiment[StableByConstructionSettings]):
    """Divergences and accuracy of the stable parametrisation beside the free one's."""

    name: ClassVar[str] = "stable-by-construction"
    summary: ClassVar[str] = "does a stable parametrisation diverge less, and at what accuracy?"
    settings_type = StableByConstructionSettings
    tasks: ClassVar[tuple[str, ...]] = LengthIndependence.tasks

    def runs(self, settings: StableByConstructionSettings) -> list[TrainingRun]:
        """The free sweep, which `length-independence` shares, then the stable one."""
        sweep = LengthIndependence()
        return [run for kind in _BOTH for run in sweep.runs(settings.sweep(kind))]

    def outcome(
        self, settings: StableByConstructionSettings, results: Sequence[StoredRun]
    ) -> Outcome:
        """Accuracy, survivors and final abscissas of both, with paired tests."""
        sweeps = {kind: [run for run in results if _kind(run) == kind] for kind in _BOTH}
        lengths = sorted({seq_len_of(run) for run in results})
        rows = [_row(seq_len, sweeps) for seq_len in lengths]
        differences = {
            split: difference
            for split in _SPLITS
            if (difference := shared_by_seed(sweeps["stable"], sweeps["free"], split))
        }
        counts = {kind: (len(survivors(runs)), len(runs)) for kind, runs in sweeps.items()}
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title=f"Stable by construction: {in_words(settings.task)}",
            summary=" ".join(
                f"{kind}: {alive} of {attempted} trainings ended without overflow."
                for kind, (alive, attempted) in counts.items()
            ),
            claims=_claims(sweeps, differences),
            figures=[_figure(settings, rows, sweeps)],
            tables=[
                _table(settings, rows),
                seed_table(f"{self.name}-{settings.label}", results),
                *divergence_tables(f"{self.name}-{settings.label}", results),
            ],
            numbers={
                "task": settings.task,
                "rows": rows,
                "survived": {kind: alive for kind, (alive, _) in counts.items()},
                "attempted": {kind: attempted for kind, (_, attempted) in counts.items()},
                "stable_less_free": {
                    split: difference.as_dict() for split, difference in differences.items()
                },
            },
        )


def _kind(run: StoredRun) -> str:
    return str(run.fields["model"]["parametrisation"])


def _row(seq_len: int, sweeps: dict[Parametrisation, list[StoredRun]]) -> Row:
    row: Row = {"seq_len": seq_len}
    here = {
        kind: [run for run in runs if seq_len_of(run) == seq_len] for kind, runs in sweeps.items()
    }
    for kind, runs in here.items():
        trained = survivors(runs)
        row[f"{kind}_attempted"], row[f"{kind}_survived"] = len(runs), len(trained)
        for split in _SPLITS:
            scores = [accuracy_of(run, split) for run in trained]
            row[f"{kind}_{split}"], row[f"{kind}_{split}_std"] = mean_and_std(scores)
        abscissas = [float(run.summary["s_A"] or 0.0) for run in trained]
        row[f"{kind}_largest_s_A"] = max(abscissas, default=None)
    difference = shared_by_seed(here["stable"], here["free"])
    row["stable_less_free"] = difference.as_dict() if difference else None
    return row


def _claims(
    sweeps: dict[Parametrisation, list[StoredRun]], differences: dict[str, PairedDifference]
) -> list[Claim]:
    stable, free = sweeps["stable"], sweeps["free"]
    lost, free_lost = (len(runs) - len(survivors(runs)) for runs in (stable, free))
    claims = [
        Claim(
            "A model that is stable by construction does not diverge.",
            "holds" if not lost else "does not hold",
            f"{lost} of {len(stable)} stable trainings overflowed, {free_lost} of {len(free)} free "
            "ones",
            holds=not lost,
        )
    ]
    if "test" in differences:
        holds = differences["test"].no_worse()
        claims.append(
            Claim(
                "The stable parametrisation is no less accurate than the free one's survivors, "
                "within one point.",
                VERDICTS[holds],
                "test accuracy, stable less free, each seed averaged over the lengths: "
                f"{differences['test'].text()}",
                holds=holds,
            )
        )
    return claims


def _figure(
    settings: StableByConstructionSettings,
    rows: Sequence[Row],
    sweeps: dict[Parametrisation, list[StoredRun]],
) -> Figure:
    accuracies = []
    for kind in _BOTH:
        means = [row[f"{kind}_test"] for row in rows]
        spreads = [row[f"{kind}_test_std"] or 0.0 for row in rows]
        pairs = list(zip(means, spreads, strict=True))
        accuracies.append(
            Line(
                x=[row["seq_len"] for row in rows],
                y=means,
                lower=[None if mean is None else mean - spread for mean, spread in pairs],
                upper=[None if mean is None else mean + spread for mean, spread in pairs],
                label=f"{kind}: mean over seeds",
                family=kind,
            )
        )
    ends = [
        Line(
            x=[seq_len_of(run) for run in survivors(runs)],
            y=[float(run.summary["s_A"] or 0.0) for run in survivors(runs)],
            label=f"{kind}: one trained model",
            style="points",
            family=kind,
        )
        for kind, runs in sweeps.items()
    ]
    marks = guessing_marks([run for runs in sweeps.values() for run in runs], settings.paths)
    return Figure(
        name=f"stable-by-construction-{settings.label}",
        title=f"Free and stable state matrices, {in_words(settings.task)}",
        panels=[
            Panel("sequence length T", "test accuracy", lines=accuracies, marks=marks),
            Panel(
                "sequence length T",
                "spectral abscissa s_A after training",
                lines=ends,
                zero_line=True,
            ),
        ],
        caption=(
            "Left: mean over the seeds that survived; bands: one standard deviation over them. "
            "Right: each point is one trained model."
        ),
    )


def _table(settings: StableByConstructionSettings, rows: Sequence[Row]) -> Table:
    shown = []
    for row in rows:
        cells: Row = {"seq_len": row["seq_len"]}
        for kind in _BOTH:
            cells[f"{kind}_survivors"] = f"{row[f'{kind}_survived']} of {row[f'{kind}_attempted']}"
            cells[f"{kind}_test"] = with_spread(row[f"{kind}_test"], row[f"{kind}_test_std"])
            cells[f"{kind}_s_A"] = row[f"{kind}_largest_s_A"]
        difference = row["stable_less_free"] or {}
        cells["difference"], cells["p_value"] = difference.get("mean"), difference.get("p_value")
        shown.append(cells)
    return Table(
        name=f"stable-by-construction-{settings.label}",
        title="Free and stable, by sequence length",
        columns=[
            Column("seq_len", "T"),
            Column("free_survivors", "free, survived"),
            Column("free_test", "free, test"),
            Column("free_s_A", "free, largest s_A", "+.4f"),
            Column("stable_survivors", "stable, survived"),
            Column("stable_test", "stable, test"),
            Column("stable_s_A", "stable, largest s_A", "+.4f"),
            Column("difference", "stable less free", "+.4f"),
            Column("p_value", "p-value", ".2g"),
        ],
        rows=shown,
        caption=(
            "Mean (standard deviation) over the survivors. Difference and p-value: paired t-test "
            "over the seeds that survived in both, not corrected for the number of lengths."
        ),
    )

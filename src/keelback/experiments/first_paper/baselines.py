"""How do other models of the same size do on the same data, from the same seeds?"""

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from keelback.experiments._shared.in_words import guessing_marks, in_words
from keelback.experiments._shared.on_task import OnTaskSettings
from keelback.experiments._shared.presets import (
    LENGTH_INDEPENDENCE,
    Preset,
    as_baseline,
    chosen_lengths,
    preset,
    selective_ssm_run,
    stable_model,
)
from keelback.experiments._shared.scores import (
    PairedDifference,
    accuracy_of,
    divergence_tables,
    mean_and_std,
    seq_len_of,
    shared_by_seed,
    survivors,
    with_spread,
)
from keelback.experiments.experiment import Experiment
from keelback.models import BASELINES, model_config, parameter_count
from keelback.outcome import Bars, Claim, Column, Figure, Outcome, Panel, Table
from keelback.sweeps.store import StoredRun
from keelback.sweeps.training_run import TrainingRun

OURS = "selective SSM"
STABLE = "selective SSM, stable"

_LENGTHS = {"majority": (50, 200, 400), "listops": (100, 500), "imdb": (100, 500)}
_QUICK_LENGTHS = {"majority": (20, 50), "listops": (50,), "imdb": (50,)}

Row = dict[str, Any]
"""One model at one length: size, survivors, accuracies, and the difference from the free SSM."""


class BaselinesSettings(OnTaskSettings):
    """Task, lengths, seeds, and which models stand beside the selective SSM."""

    seq_len: tuple[PositiveInt, ...] | None = Field(default=None, min_length=1)
    models: tuple[str, ...] = (STABLE, *BASELINES)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths, each of which is a training of every model."""
        papers = (_QUICK_LENGTHS if self.quick else _LENGTHS).get(self.task, ())
        return tuple(sorted(set(chosen_lengths(self.task, self.seq_len, papers))))


class Baselines(Experiment[BaselinesSettings]):
    """Parameter-matched attention, linear attention, LTI SSM and RNN beside the selective SSM."""

    name: ClassVar[str] = "baselines"
    summary: ClassVar[str] = "how do other models of the same size do on the same data?"
    settings_type = BaselinesSettings
    tasks: ClassVar[tuple[str, ...]] = tuple(LENGTH_INDEPENDENCE)

    def runs(self, settings: BaselinesSettings) -> list[TrainingRun]:
        """Every model at every length from every seed, with one recipe."""
        chosen = preset(LENGTH_INDEPENDENCE, settings.task).at(settings.quick)
        return [
            _run(settings, chosen, model, seq_len, seed)
            for seq_len in settings.lengths
            for model in (OURS, *settings.models)
            for seed in settings.seed_range
        ]

    def outcome(self, settings: BaselinesSettings, results: Sequence[StoredRun]) -> Outcome:
        """Accuracy of each model, and paired tests against the free selective SSM."""
        names = [model for model in (OURS, *settings.models) if _of(results, model)]
        rows = [
            _row(model, seq_len, results)
            for seq_len in sorted({seq_len_of(run) for run in results})
            for model in names
        ]
        others = {
            model: difference
            for model in names
            if model != OURS
            and (difference := shared_by_seed(_of(results, model), _of(results, OURS)))
        }
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title=f"Models of one size: {in_words(settings.task)}",
            summary=(
                f"{len(names)} models, {settings.seeds} seeds each, trained with the selective "
                "SSM's recipe on the same data."
            ),
            claims=[_claim(model, difference) for model, difference in others.items()],
            figures=[_figure(settings, rows, names, results)],
            tables=[
                _table(settings, rows),
                *divergence_tables(f"{self.name}-{settings.label}", results),
            ],
            notes=[
                "The recipe (Adam at 0.01, the plateau schedule, the collapse penalty) is the "
                "paper's for the selective SSM; none of the others had theirs tuned.",
            ],
            numbers={
                "task": settings.task,
                "rows": rows,
                "less_selective_ssm": {
                    model: difference.as_dict() for model, difference in others.items()
                },
            },
        )


def _run(
    settings: BaselinesSettings, chosen: Preset, model: str, seq_len: int, seed: int
) -> TrainingRun:
    run = selective_ssm_run(
        settings.task,
        chosen,
        seq_len=seq_len,
        seed=seed,
        epochs=settings.epochs,
        paths=settings.paths,
        **(stable_model() if model == STABLE else {}),
    )
    return run if model in (OURS, STABLE) else as_baseline(run, model)


def _name(run: StoredRun) -> str:
    model = run.fields["model"]
    if model["kind"] != "selective-ssm":
        return str(model["kind"])
    return STABLE if model["parametrisation"] == "stable" else OURS


def _of(results: Sequence[StoredRun], model: str) -> list[StoredRun]:
    return [run for run in results if _name(run) == model]


def _row(model: str, seq_len: int, results: Sequence[StoredRun]) -> Row:
    here = [run for run in results if seq_len_of(run) == seq_len]
    runs = _of(here, model)
    trained = survivors(runs)
    row: Row = {
        "seq_len": seq_len,
        "model": model,
        "parameters": parameter_count(model_config(runs[0].fields["model"]).build()),
        "attempted": len(runs),
        "survived": len(trained),
    }
    for split in ("train", "test"):
        scores = [accuracy_of(run, split) for run in trained]
        row[split], row[f"{split}_std"] = mean_and_std(scores)
    difference = shared_by_seed(runs, _of(here, OURS)) if model != OURS else None
    row["less_selective_ssm"] = difference.as_dict() if difference else None
    return row


def _claim(model: str, difference: PairedDifference) -> Claim:
    better = difference.lower is not None and difference.lower > 0
    worse = difference.upper is not None and difference.upper < 0
    return Claim(
        f"The selective SSM is at least as accurate as {model} of the same size.",
        "does not hold" if better else "holds" if worse else "no difference shown",
        f"test accuracy, {model} less selective SSM, each seed averaged over the lengths: "
        f"{difference.text()}",
        holds=False if better else True if worse else None,
    )


def _figure(
    settings: BaselinesSettings,
    rows: Sequence[Row],
    names: Sequence[str],
    results: Sequence[StoredRun],
) -> Figure:
    bars = []
    for model in names:
        own = [row for row in rows if row["model"] == model]
        bars.append(
            Bars(
                x=[f"T = {row['seq_len']}" for row in own],
                y=[row["test"] for row in own],
                lower=[_bound(row, -1) for row in own],
                upper=[_bound(row, +1) for row in own],
                label=in_words(model),
            )
        )
    marks = guessing_marks(results, settings.paths)
    return Figure(
        name=f"baselines-{settings.label}",
        title=f"Test accuracy of models of one size, {in_words(settings.task)}",
        panels=[Panel("sequence length", "test accuracy", bars=bars, marks=marks)],
        caption="Bars: mean over the seeds that survived. Whiskers: their standard deviation.",
    )


def _bound(row: Row, sign: int) -> float | None:
    return None if row["test"] is None else row["test"] + sign * (row["test_std"] or 0.0)


def _table(settings: BaselinesSettings, rows: Sequence[Row]) -> Table:
    shown = []
    for row in rows:
        difference = row["less_selective_ssm"] or {}
        shown.append(
            {
                "seq_len": row["seq_len"],
                "model": row["model"],
                "parameters": row["parameters"],
                "survivors": f"{row['survived']} of {row['attempted']}",
                "train": with_spread(row["train"], row["train_std"]),
                "test": with_spread(row["test"], row["test_std"]),
                "difference": difference.get("mean"),
                "p_value": difference.get("p_value"),
            }
        )
    return Table(
        name=f"baselines-{settings.label}",
        title="Models of one size, by sequence length",
        columns=[
            Column("seq_len", "T"),
            Column("model", "model"),
            Column("parameters", "parameters"),
            Column("survivors", "survived"),
            Column("train", "train"),
            Column("test", "test"),
            Column("difference", "test, less the selective SSM's", "+.4f"),
            Column("p_value", "p-value", ".2g"),
        ],
        rows=shown,
        caption=(
            "Parameters: without the embedding. Mean (standard deviation) over the survivors. "
            "Difference and p-value: paired t-test over shared seeds, not corrected for the number "
            "of comparisons."
        ),
    )

"""Which measures of a trained model predict its generalisation gap?

A factorial design of trainings; Kendall's rank correlation of each candidate with the gap, over all
pairs of models and over the pairs that differ in one hyperparameter alone.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PositiveInt

from keelback.data import get_task
from keelback.experiments.experiment import Experiment, Settings
from keelback.experiments.measures.design import FACTORS, QUICK_FACTORS, TASKS, TWIN, Point
from keelback.experiments.measures.of_model import CANDIDATES
from keelback.experiments.measures.ranking import (
    Correlation,
    Pairs,
    Values,
    bootstrap_counts,
    kendall,
)
from keelback.experiments.measures.run import MeasuredRun
from keelback.experiments.measures.tables import (
    bar_figure,
    claims,
    coefficient_table,
    factor_table,
    gap_table,
    heatmap_figure,
    notes,
    scatter_figure,
)
from keelback.outcome import Outcome
from keelback.sweeps.store import StoredRun
from keelback.training import Recipe

_SMALL_FRESH = 2000
_RESAMPLES = 1000


class MeasuresSettings(Settings):
    """How many seeds of each place of the design, for how long, and on how many fresh examples."""

    seeds: int = Field(default=2, ge=1)
    epochs: PositiveInt | None = None
    fresh_examples: PositiveInt | None = None


class Measures(Experiment[MeasuresSettings]):
    """Rank correlations of candidate measures with the gap, with bootstrap intervals."""

    name: ClassVar[str] = "measures"
    summary: ClassVar[str] = "which measures of a trained model predict its generalisation gap?"
    settings_type = MeasuresSettings

    def runs(self, settings: MeasuresSettings) -> list[MeasuredRun]:
        """One training a place of the design; each has data and initial values of its own."""
        return [_run(point, number, settings) for number, point in enumerate(_design(settings), 1)]

    def outcome(self, settings: MeasuresSettings, results: Sequence[StoredRun]) -> Outcome:
        """The correlations, as a table, a heatmap and the claims of who predicts."""
        design = _design(settings)
        trained = [i for i, run in enumerate(results) if not run.summary["diverged"]]
        points = [design[i] for i in trained]
        columns = _columns(points, [results[i].summary for i in trained])
        rows = _rows(points, columns)
        gaps = _gap_rows(points, columns)
        return Outcome(
            experiment=self.name,
            title="Measures of generalisation",
            summary=(
                f"{len(results)} selective SSMs, {len(trained)} trained to the end; "
                f"{len(CANDIDATES)} candidate measures of each."
            ),
            claims=claims(rows),
            figures=[bar_figure(rows), heatmap_figure(rows), scatter_figure(points, columns, rows)],
            tables=[coefficient_table(rows), factor_table(rows), gap_table(gaps)],
            notes=notes(len(results) - len(trained)),
            numbers={"models": len(trained), "measures": rows, "gaps": gaps},
        )


def _design(settings: MeasuresSettings) -> list[Point]:
    """Repetitions outermost, so that more seeds only add trainings."""
    factors = QUICK_FACTORS if settings.quick else FACTORS
    return [
        {"task": task, **dict(zip(factors, values, strict=True)), "repetition": repetition}
        for repetition in range(settings.seeds)
        for task in TASKS
        for values in itertools.product(*factors.values())
    ]


def _run(point: Point, number: int, settings: MeasuresSettings) -> MeasuredRun:
    task_settings = {"seq_len": point["T"], "n_train": point["m"], "data_seed": number}
    task_settings["n_test"] = 1000
    described = get_task(point["task"], **task_settings)
    recipe = Recipe(
        epochs=settings.epochs or (10 if settings.quick else 60),
        learning_rate=point["learning rate"],
        weight_decay=point["weight decay"],
    )
    return MeasuredRun(
        task=point["task"],
        task_settings=task_settings,
        model={
            "kind": "selective-ssm",
            "vocab_size": described.vocab_size,
            "n_classes": described.n_classes,
            "d_model": point["d_model"],
            "spectral_abscissa": point["s_A"],
        },
        recipe=recipe,
        seed=number,
        fresh_examples=settings.fresh_examples or (_SMALL_FRESH if settings.quick else 10_000),
    )


def _columns(points: Sequence[Point], summaries: Sequence[Mapping[str, Any]]) -> dict[str, Values]:
    """Every measure and the gaps as arrays over the models; NaN where a model has none."""
    keys = ["gap", "shifted_gap", *(candidate.key for candidate in CANDIDATES)]
    columns = {
        key: np.array([np.nan if s[key] is None else float(s[key]) for s in summaries])
        for key in keys
    }
    places = [tuple(value for key, value in p.items() if key != "repetition") for p in points]
    by_place: dict[Any, list[int]] = {}
    for model, place in enumerate(places):
        by_place.setdefault(place, []).append(model)
    columns[TWIN.key] = np.full(len(points), np.nan)
    for model, place in enumerate(places):
        others = [other for other in by_place[place] if other != model]
        if others:
            columns[TWIN.key][model] = columns["gap"][others].mean()
    return columns


def _strata(points: Sequence[Point]) -> dict[str, list[Pairs]]:
    """For each coefficient the groups of pairs that it averages over."""
    equal = {
        key: np.array([[a[key] == b[key] for b in points] for a in points], dtype=bool)
        for key in points[0]
    }
    alone = {}
    for factor in FACTORS:
        others = [same for key, same in equal.items() if key != factor]
        alone[factor] = np.logical_and.reduce(others) & ~equal[factor]
    varied = [factor for factor in FACTORS if alone[factor].any()]
    tasks = np.array([point["task"] for point in points])
    within = {task: np.logical_and.outer(tasks == task, tasks == task) for task in TASKS}
    strata = {"overall": [np.ones((len(points), len(points)), dtype=bool)]}
    strata |= {task: [pairs] for task, pairs in within.items()}
    strata["granulated"] = [alone[factor] for factor in varied]
    for task, pairs in within.items():
        strata[f"granulated, {task}"] = [alone[factor] & pairs for factor in varied]
    return strata | {factor: [alone[factor]] for factor in varied}


def _rows(points: Sequence[Point], columns: Mapping[str, Values]) -> list[dict[str, Any]]:
    """A row a measure, the highest granulated coefficient first."""
    strata = _strata(points)
    counts = bootstrap_counts(len(points), _RESAMPLES, seed=0)
    rows = []
    for candidate in (TWIN, *CANDIDATES):
        values = candidate.sign * columns[candidate.key]
        found = {name: kendall(values, columns["gap"], s, counts) for name, s in strata.items()}
        row: dict[str, Any] = {
            "key": candidate.key,
            "label": candidate.label + (" (negated)" if candidate.sign < 0 else ""),
            "verdict": "reference" if candidate is TWIN else _verdict(found),
        }
        for name, correlation in found.items():
            row[name] = None if correlation is None else dataclasses.asdict(correlation)
        rows.append(row)
    return sorted(rows, key=lambda row: -(row["granulated"] or {"tau": -2.0})["tau"])


def _verdict(found: Mapping[str, Correlation | None]) -> str:
    """Useful: the whole interval is above zero, overall and granulated, on each task."""
    decisive = [
        found[name] for task in TASKS for name in (task, f"granulated, {task}") if name in found
    ]
    known = [correlation for correlation in decisive if correlation is not None]
    if len(known) == len(decisive) and all(c.lower > 0 for c in known):
        return "useful"
    if known and all(c.upper < 0 for c in known):
        return "wrong way round"
    if any(c.lower > 0 for c in known) and not any(c.upper < 0 for c in known):
        return "in part"
    return "no"


def _gap_rows(points: Sequence[Point], columns: Mapping[str, Values]) -> list[dict[str, Any]]:
    rows = []
    for task in TASKS:
        chosen = np.array([point["task"] == task for point in points])
        gap, shifted = columns["gap"][chosen], columns["shifted_gap"][chosen]
        shifted = shifted[np.isfinite(shifted)]
        rows.append(
            {
                "task": task,
                "models": len(gap),
                "mean": float(gap.mean()),
                "std": float(gap.std(ddof=1)),
                "smallest": float(gap.min()),
                "largest": float(gap.max()),
                "shifted": float(shifted.mean()) if len(shifted) else None,
            }
        )
    return rows

"""The rank correlations of measures with the gap, as claims, tables and figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keelback.experiments._shared.in_words import in_words
from keelback.experiments.measures.design import FACTORS, KNOWN_BEFORE, TASKS, TWIN, Point
from keelback.experiments.measures.ranking import Values
from keelback.outcome import (
    Bars,
    Claim,
    Column,
    Figure,
    Heatmap,
    Line,
    Panel,
    Table,
)

_SHOWN = 12
_PAIRS = {
    "majority": "Majority",
    "listops": "ListOps",
    "T": "sequence length",
    "s_A": "spectral abscissa",
    "d_model": "model width",
    "m": "training examples",
}
"""What the figure calls the groups of pairs of models."""
_GAP = (
    "Each point is one trained model. Gap in error: on fresh examples of the training "
    "distribution, less on the training examples."
)

Row = Mapping[str, Any]
"""One measure: its key, label, verdict, and each coefficient by name."""


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Do the bounds order models, does anything, and better than the sample size?"""
    of = {row["key"]: row for row in rows}
    bounds = [of["published"], of["sharpened"]]
    of_models = [row for row in rows if row["key"] not in (TWIN.key, *KNOWN_BEFORE)]
    useful = [row["label"] for row in of_models if row["verdict"] == "useful"]
    wrong = [row["label"] for row in of_models if row["verdict"] == "wrong way round"]
    best = of_models[0]
    ahead = {task: _ahead_of(of["inverse_m"], of_models, task) for task in TASKS}
    on_both = set.intersection(*map(set, ahead.values()))
    return [
        Claim(
            "The bounds of the class order trained models by their gap.",
            "holds" if all(row["verdict"] == "useful" for row in bounds) else "does not hold",
            "; ".join(
                f"{row['label']}: tau {_text(row['overall'])} overall, "
                f"{_text(row['granulated'])} granulated"
                for row in bounds
            ),
            holds=all(row["verdict"] == "useful" for row in bounds),
        ),
        Claim(
            "Some measure of a trained model predicts its gap on both tasks.",
            "holds" if useful else "does not hold",
            f"useful: {', '.join(useful) or 'none'}; "
            f"wrong way round: {', '.join(wrong) or 'none'}; "
            f"highest: {best['label']}, {_text(best['granulated'])} granulated",
            holds=bool(useful),
        ),
        Claim(
            "Some measure of a trained model predicts its gap better than the sample size does.",
            "holds" if on_both else "does not hold on both tasks",
            "; ".join(
                f"{task}: 1 / m {_text(of['inverse_m'][task])}, above it beyond both intervals: "
                f"{', '.join(ahead[task]) or 'none'}"
                for task in TASKS
            ),
            holds=bool(on_both),
        ),
    ]


def _ahead_of(reference: Row, rows: Sequence[Row], name: str) -> list[str]:
    """The measures whose interval lies above that of the reference."""
    limit = -1.0 if reference[name] is None else float(reference[name]["upper"])
    return [row["label"] for row in rows if row[name] is not None and row[name]["lower"] > limit]


def _text(found: Mapping[str, Any] | None) -> str | None:
    if found is None:
        return None
    return f"{found['tau']:+.2f} ({found['lower']:+.2f} to {found['upper']:+.2f})"


def coefficient_table(rows: Sequence[Row]) -> Table:
    """Every measure's coefficients with intervals."""
    names = ("overall", *TASKS, "granulated", *(f"granulated, {task}" for task in TASKS))
    return Table(
        name="measures",
        title="Kendall's rank correlation with the gap",
        columns=[
            Column("label", "measure"),
            *(Column(name, name) for name in names),
            Column("verdict", "useful?"),
        ],
        rows=[
            {
                "label": row["label"],
                **{name: _text(row[name]) for name in names},
                "verdict": row["verdict"],
            }
            for row in rows
        ],
        caption=(
            "tau_b with 95 % bootstrap intervals over models. Granulated: the mean over "
            "hyperparameters of tau over pairs that differ in that one alone. Signs are such that "
            "positive is as theory expects. Useful: all four intervals within a task above zero."
        ),
    )


def factor_table(rows: Sequence[Row]) -> Table:
    """The coefficients within one hyperparameter."""
    factors = [factor for factor in FACTORS if factor in rows[0]]
    return Table(
        name="measures-by-hyperparameter",
        title="Within one hyperparameter varied at a time",
        columns=[Column("label", "measure"), *(Column(factor, factor) for factor in factors)],
        rows=[
            {"label": row["label"], **{factor: _text(row[factor]) for factor in factors}}
            for row in rows
        ],
        caption="Both tasks; empty where the hyperparameter does not move the measure.",
    )


def gap_table(gaps: Sequence[Row]) -> Table:
    """How large the gaps are."""
    return Table(
        name="measured-gaps",
        title="The gaps",
        columns=[
            Column("task", "task"),
            Column("models", "models"),
            Column("mean", "mean", "+.3f"),
            Column("std", "standard deviation", ".3f"),
            Column("smallest", "smallest", "+.3f"),
            Column("largest", "largest", "+.3f"),
            Column("shifted", "mean on the shifted test distribution", "+.3f"),
        ],
        rows=list(gaps),
        caption="Error on fresh examples of the training distribution less training error.",
    )


def bar_figure(rows: Sequence[Row]) -> Figure:
    """Overall and granulated coefficients with whiskers."""
    panels = []
    for name in ("overall", "granulated"):
        known = [row for row in rows if row[name] is not None][:_SHOWN]
        bars = Bars(
            x=[row["label"] for row in known],
            y=[row[name]["tau"] for row in known],
            lower=[row[name]["lower"] for row in known],
            upper=[row[name]["upper"] for row in known],
        )
        panels.append(Panel("measure", "Kendall's tau", name, bars=[bars], zero_line=True))
    return Figure(
        "measures",
        "Rank correlation with the gap",
        panels,
        caption=(
            f"The {_SHOWN} measures with the highest granulated coefficient. Whiskers: 95 % "
            "bootstrap intervals."
        ),
    )


def heatmap_figure(rows: Sequence[Row]) -> Figure:
    """Every coefficient of every measure."""
    shown = [name for name in ("overall", *TASKS, "granulated", *FACTORS) if name in rows[0]]
    half = (len(rows) + 1) // 2
    panels = [
        Panel(
            "pairs of models",
            "measure",
            heatmap=Heatmap(
                x=[_PAIRS.get(name, name) for name in shown],
                y=[row["label"] for row in part],
                values=[[row[name] and row[name]["tau"] for name in shown] for row in part],
                label="Kendall's tau",
                lowest=-1.0,
                highest=1.0,
                from_top=True,
            ),
        )
        for part in (rows[:half], rows[half:])
    ]
    return Figure(
        "measures-by-hyperparameter",
        "Rank correlation with the gap, by pairs",
        panels,
        caption=(
            "All measures in the order of their granulated coefficient. Each column: pairs of "
            "models that differ in this hyperparameter alone, or of one task; overall: all pairs."
        ),
    )


def scatter_figure(
    points: Sequence[Point], columns: Mapping[str, Values], rows: Sequence[Row]
) -> Figure:
    """The gap against the best measure and the bounds."""
    best = next(row for row in rows if row["key"] not in (TWIN.key, *KNOWN_BEFORE))
    panels = []
    for key in dict.fromkeys((best["key"], "published", "sharpened")):
        lines = []
        for task in TASKS:
            pairs = [
                (float(x), float(y))
                for point, x, y in zip(points, columns[key], columns["gap"], strict=True)
                if point["task"] == task and np.isfinite(x) and np.isfinite(y)
            ]
            x, y = zip(*pairs, strict=True)
            lines.append(Line(x=x, y=y, label=in_words(task), style="points", family=task))
        label = next(row["label"].removesuffix(" (negated)") for row in rows if row["key"] == key)
        if key in ("published", "sharpened"):
            label += ", log₁₀"
        positive = all(value > 0 for line in lines for value in line.x)
        panels.append(Panel(label, "gap in error", lines=lines, zero_line=True, log_x=positive))
    return Figure("gap-against-measure", "The gap against three measures", panels, _GAP)


def notes(diverged: int) -> list[str]:
    """How far the numbers can be trusted."""
    said = [
        "A gap is measured with sampling errors of its own (of the training sample above all), so "
        "no measure can reach 1; the reference row says how well one seed's gap predicts "
        "another's.",
        "Thirty measures are compared: of as many that predict nothing, one or two intervals would "
        "lie off zero by chance.",
        "The models do not interpolate and their matrices have few singular values, so the "
        "interpolating information criterion and the spectral exponents are outside the regime "
        "that they were made for.",
    ]
    if diverged:
        said.append(f"{diverged} trainings diverged and have no gap.")
    return said

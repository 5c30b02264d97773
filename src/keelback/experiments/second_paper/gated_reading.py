"""What the experiments on the gated SSM share: exponents and their verdicts, alignment figures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from keelback.dynamics import (
    Interval,
    Locality,
    MajorityVoting,
    PowerLaw,
    bayes_error,
    conditions,
    fit_power_law,
    median_with_interval,
    share_with_interval,
)
from keelback.experiments.second_paper.gated_experiment import Measured
from keelback.experiments.second_paper.gated_trials import GatedTrials, Goal, outcomes_of
from keelback.outcome import Claim, Column, Figure, Line, Panel, Scalar, Table
from keelback.sweeps.store import StoredRun

TOLERANCE = 0.25
"""Share of a predicted exponent by which a measured one may miss it and count as near."""

SEPARATION = "separation 2^(−near) − 2^(−far)"
"""What the second paper's epochs of locality are counted against."""
FEATURES = {
    "o_plus": "relevant, o₊",
    "o_minus": "relevant, o₋",
    "irrelevant_mean": "irrelevant, mean",
}


def finite(value: float) -> float | None:
    """The value, or `None` where JSON has none for it."""
    return float(value) if math.isfinite(value) else None


def shown(interval: Interval, spec: str = ".3g") -> str:
    """`value (low to high)`, censored ends written as such; "censored" where all three are."""
    if not any(map(math.isfinite, (interval.low, interval.value, interval.high))):
        return "censored"
    low, high = (
        format(end, spec) if math.isfinite(end) else "censored"
        for end in (interval.low, interval.high)
    )
    value = format(interval.value, spec) if math.isfinite(interval.value) else "censored"
    return f"{value} ({low} to {high})"


def trial_row(
    series: str, run: GatedTrials, stored: StoredRun, goal: Goal = "target"
) -> dict[str, Any]:
    """Success share and median epochs over all trials of one setting, with 95% intervals."""
    outcomes = outcomes_of(stored, goal)
    reached = int(np.isfinite(outcomes).sum())
    share = share_with_interval(reached, len(outcomes))
    epochs = median_with_interval(outcomes)
    return {
        "series": series,
        "gap": run.pattern.gap,
        "samples": run.samples,
        "trials": len(outcomes),
        "reached": reached,
        "censored": int(stored.summary["censored"] or 0),
        "diverged": int(stored.summary["diverged"] or 0),
        "share": share.value,
        "share_low": share.low,
        "share_high": share.high,
        "epochs": finite(epochs.value),
        "epochs_low": finite(epochs.low),
        "epochs_high": finite(epochs.high),
        "shown_epochs": shown(epochs, ".0f"),
    }


def exponent_claim(
    statement: str, law: PowerLaw | None, theory: float, *, sufficient: bool = False
) -> Claim:
    """Compare a fitted exponent with the predicted one.

    With `sufficient` the theorem says what is enough, so slower growth does not contradict it.
    """
    if law is None or law.points < 3:
        points = law.points if law else 0
        return Claim(
            statement, "not measured", f"{points} points have a median; three or more are needed"
        )
    found = law.exponent
    evidence = f"exponent {shown(found, '+.2f')}, theory {theory:+g}, from {law.points} points"
    if law.censored_points:
        evidence += f"; {law.censored_points} points with a censored median are left out"
    if found.low <= theory <= found.high:
        return Claim(statement, "holds", evidence, holds=True)
    if sufficient and found.low > theory:
        verdict = "consistent, not tight: less is enough"
        return Claim(statement, verdict, evidence, holds=None)
    miss = abs(found.value - theory) / abs(theory)
    if miss <= TOLERANCE:
        return Claim(statement, f"holds within {miss:.0%}", evidence, holds=None)
    return Claim(statement, "does not hold", evidence, holds=False)


def law_of(pairs: Sequence[Measured], goal: Goal = "target") -> PowerLaw | None:
    """The law of the epochs in the gap; `None` where too few settings have a median."""
    if not pairs:
        return None
    return fit_power_law(
        [run.pattern.gap for run, _ in pairs], [outcomes_of(stored, goal) for _, stored in pairs]
    )


def law_numbers(law: PowerLaw | None, theory: float) -> dict[str, Any] | None:
    """A fitted law for `--json`."""
    if law is None:
        return None
    return {
        "exponent": law.exponent.value,
        "low": finite(law.exponent.low),
        "high": finite(law.exponent.high),
        "theory": theory,
        "points": law.points,
        "censored_points": law.censored_points,
    }


def epochs_figure(
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    rows: Sequence[dict[str, Any]],
    theory: float,
) -> Figure:
    """Median epochs against the gap with the predicted slope, and success shares beside it."""
    epochs = [_band(series, "epochs", rows) for series in _series(rows)]
    shares = [_band(series, "share", rows) for series in _series(rows)]
    fullest = max(epochs, key=lambda line: sum(y is not None for y in line.y))
    slope = theory_line(fullest.x, fullest.y, theory)
    return Figure(
        name,
        title,
        [
            Panel(
                x_label,
                y_label,
                lines=[*epochs, slope] if slope else epochs,
                log_x=True,
                log_y=True,
            ),
            Panel(x_label, "share of trials", lines=shares, log_x=True, y_limits=(-0.03, 1.03)),
        ],
        "Left: median over all trials, a trial that did not reach the target counting as longer "
        "than any; band: 95 % bootstrap interval. Right: share that reached it, Wilson interval.",
    )


def _series(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["series"] for row in rows))


def _band(series: str, key: str, rows: Sequence[dict[str, Any]]) -> Line:
    points = [row for row in rows if row["series"] == series]
    return Line(
        [row["gap"] for row in points],
        [row[key] for row in points],
        series,
        [row[f"{key}_low"] for row in points],
        [row[f"{key}_high"] for row in points],
        family=series,
    )


def theory_line(x: Sequence[float], y: Sequence[float | None], exponent: float) -> Line | None:
    """The predicted slope through the middle of the measured points."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if b is not None]
    if not pairs:
        return None
    log_x, log_y = (np.log([pair[k] for pair in pairs]).mean() for k in (0, 1))
    ends = sorted(pair[0] for pair in pairs)
    return Line(
        x=ends,
        y=[float(np.exp(log_y + exponent * (np.log(end) - log_x))) for end in ends],
        label=f"slope {exponent:+g} (theory)",
        style="dashed",
        reference=True,
    )


def grid_table(name: str, title: str, gap: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Success counts and median epochs of every setting."""
    return Table(
        name,
        title,
        [
            Column("series", "data"),
            Column("gap", gap, ".4f"),
            Column("reached", "reached"),
            Column("trials", "trials"),
            Column("diverged", "diverged"),
            Column("shown_epochs", "median epochs (95 % interval)"),
        ],
        rows,
        "Medians over all trials; a trial that did not reach the target is censored.",
    )


def exponent_table(
    name: str, title: str, laws: Mapping[str, PowerLaw | None], theory: float
) -> Table:
    """Fitted exponents beside the predicted one."""
    rows: list[Mapping[str, Scalar]] = [
        {
            "series": series,
            "exponent": law.exponent.value,
            "low": law.exponent.low,
            "high": law.exponent.high,
            "theory": theory,
            "points": law.points,
            "censored_points": law.censored_points,
        }
        for series, law in laws.items()
        if law is not None
    ]
    return Table(
        name,
        title,
        [
            Column("series", "data"),
            Column("exponent", "exponent", "+.2f"),
            Column("low", "95 % from", "+.2f"),
            Column("high", "95 % to", "+.2f"),
            Column("theory", "theory", "+.0f"),
            Column("points", "points fitted"),
            Column("censored_points", "points left out"),
        ],
        rows,
        "Slope of log medians against the log gap; 95 % bootstrap over trials.",
    )


def course(stored: StoredRun, key: str) -> Line:
    """Median over trials of one measure against the epoch, banded by all trials."""
    rows: Sequence[Mapping[str, Any]] = stored.history()
    epochs: list[int] = sorted({row["epoch"] for row in rows})
    values = [
        [row[key] for row in rows if row["epoch"] == epoch and row[key] is not None]
        for epoch in epochs
    ]
    return Line(
        x=[float(epoch) for epoch in epochs],
        y=[float(np.median(v)) if v else None for v in values],
        lower=[float(np.min(v)) if v else None for v in values],
        upper=[float(np.max(v)) if v else None for v in values],
    )


def alignment_panels(stored: StoredRun, measure: str, title: str) -> Panel:
    """Alignment of w with o_+, o_- and the irrelevant features over the epochs."""
    lines = []
    for feature, label in FEATURES.items():
        line = course(stored, f"{measure}_{feature}")
        family = "irrelevant" if feature == "irrelevant_mean" else label
        style = "dashed" if feature == "o_minus" else "solid"  # It may lie on that of o_plus.
        lines.append(Line(line.x, line.y, label, line.lower, line.upper, style, family))
    for feature in ("irrelevant_least", "irrelevant_most"):
        line = course(stored, f"{measure}_{feature}")
        label = "irrelevant, least and most" if feature == "irrelevant_least" else ""
        lines.append(Line(line.x, line.y, label, style="dotted", family="irrelevant"))
    name = "inner product ⟨w, o⟩" if measure == "projection" else "cosine of gate w and feature o"
    return Panel("epoch", name, title=title, lines=lines, zero_line=True)


def final(stored: StoredRun, key: str) -> list[float]:
    """A measure of every trial at its last epoch."""
    ends: dict[Any, tuple[Any, Any]] = {}
    for row in stored.history():
        if row["seed"] not in ends or row["epoch"] >= ends[row["seed"]][0]:
            ends[row["seed"]] = (row["epoch"], row[key])
    return [float(value) for _, value in ends.values() if value is not None]


def conditions_table(name: str, run: GatedTrials, epochs: int) -> Table:
    """Which conditions of the theorem hold for a setting, constants taken as 1."""
    found = conditions(
        run.pattern,
        width=run.width,
        noise=run.noise.scale,
        samples=None if run.source == "fresh" else run.samples,
        step_size=run.step_size,
        epochs=epochs,
    )
    rows: list[Mapping[str, Scalar]] = [
        {**asdict(check), "verdict": "holds" if check.holds else "does not hold"} for check in found
    ]
    return Table(
        name=name,
        title="Conditions of the theorem in this setting",
        columns=[
            Column("statement", "condition"),
            Column("required", "required", ".4g"),
            Column("actual", "actual", ".4g"),
            Column("verdict", "verdict"),
        ],
        rows=rows,
        caption="The theorem's constants are not stated; they are taken as 1.",
    )


def bayes_note(pattern: MajorityVoting | Locality, noise: float) -> str:
    """What no classifier can beat in this setting."""
    found = bayes_error(pattern, noise)
    if found.log_upper == -math.inf:
        return "Without noise the Bayes error is 0."
    low, high = (bound / math.log(10) for bound in (found.log_lower, found.log_upper))
    return (
        f"The two classes overlap under Gaussian noise, so no risk is exactly zero: the Bayes "
        f"error of this setting lies between 10^{low:.0f} and 10^{high:.0f}."
    )

"""What the gate learns from locality data: figure 4 of arXiv 2602.12499, and its claim by stage.

The paper: w stays near zero on o_+ and o_-, so that their gates stay half open, and goes strongly
negative on irrelevant features. That needs an irrelevant token inside the near pair, so near >= 2.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keelback.dynamics import Locality
from keelback.experiments.second_paper.gated_experiment import Measured
from keelback.experiments.second_paper.gated_reading import alignment_panels
from keelback.experiments.second_paper.gated_trials import GatedTrials
from keelback.outcome import Claim, Figure
from keelback.sweeps.store import StoredRun

Row = Mapping[str, Any]
"""What was measured of one trial at one epoch."""

_NEAR_ZERO = 0.25
"""Share of the irrelevant projection below which one of a class feature counts as near zero."""


def near_of(run: GatedTrials) -> int:
    """Separation of the near pair."""
    assert isinstance(run.pattern, Locality)
    return run.pattern.near


def last_rows(stored: StoredRun) -> list[Row]:
    """Every trial of a "course" run where its training ended."""
    return list({row["seed"]: row for row in stored.history()}.values())


def first_rows(stored: StoredRun, loss: float, accuracy: float = 0.0) -> list[Row]:
    """Every trial of a "course" run at the first row with this test loss and accuracy.

    Trials that never got there are left out.
    """
    first: dict[Any, Row] = {}
    rows: Sequence[Row] = stored.history()
    for row in rows:
        measured = row["test_loss"] is not None and row["test_accuracy"] is not None
        if measured and row["test_loss"] <= loss and row["test_accuracy"] >= accuracy:
            first.setdefault(row["seed"], row)
    return list(first.values())


def gate_claim(near: int, rows: Sequence[Row], when: str) -> Claim:
    """near >= 2 closes the gate for irrelevant features; near = 1 does not.

    Args:
        near: separation of the near pair.
        rows: one per trial, at the stage of training that `when` names.
        when: of the statement, for instance "at loss 0.5".
    """
    statement = (
        f"near = 1, {when}: no irrelevant token lies inside the near pair, and w does not turn "
        f"negative on irrelevant features."
        if near == 1
        else f"near = {near}, {when}: w stays near zero on o_+ and o_- and goes strongly negative "
        f"on irrelevant features."
    )
    if not rows:
        return Claim(statement, "not measured", "no trial got there")
    rest = [float(row["projection_irrelevant_mean"]) for row in rows]
    relevant = [abs(float(row[f"projection_{key}"])) for row in rows for key in _CLASSES]
    mean = float(np.median(rest))
    if near == 1:
        holds = min(rest) > 0
    else:
        holds = bool(max(rest) < 0 and np.median(relevant) < _NEAR_ZERO * abs(mean))
    epochs = [int(row["epoch"]) for row in rows]
    spent = f"{min(epochs)}" if min(epochs) == max(epochs) else f"{min(epochs)} to {max(epochs)}"
    return Claim(
        statement,
        "holds" if holds else "does not hold",
        f"after {spent} epochs, over {len(rows)} trials: mean <w, o> over irrelevant features "
        f"{min(rest):+.2f} to {max(rest):+.2f}, median {mean:+.2f}; |<w, o_+->| at most "
        f"{max(relevant):.2f}",
        holds=holds,
    )


_CLASSES = ("o_plus", "o_minus")


def gate_figure(name: str, title: str, aligned: Sequence[Measured], training: str) -> Figure:
    """Projections of w over the epochs, one panel per separation; `training` heads the caption."""
    return Figure(
        name,
        title,
        [
            alignment_panels(stored, "projection", f"near = {near_of(run)}")
            for run, stored in aligned
        ],
        f"{training}; w: gating vector, o: features, near: positions between a relevant pair. "
        f"Lines: median over {aligned[0][0].trials} trials; bands: least to most.",
    )


def gate_numbers(run: GatedTrials, stored: StoredRun) -> dict[str, Any]:
    """Least and most of each projection where training ended."""
    rows = last_rows(stored)
    keys = (*_CLASSES, "irrelevant_mean")
    found = {key: [row[f"projection_{key}"] for row in rows] for key in keys}
    return {
        "near": near_of(run),
        "epochs": run.epochs,
        "trials": run.trials,
        **{f"projection_{key}": [min(values), max(values)] for key, values in found.items()},
    }

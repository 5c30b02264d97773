"""What the experiments on how a gated SSM learns share: settings, results by run, claims."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import PositiveInt

from keelback.experiments.experiment import Settings
from keelback.experiments.second_paper.gated_trials import GatedTrials
from keelback.outcome import Claim
from keelback.sweeps.store import StoredRun

Measured = tuple[GatedTrials, StoredRun]
"""A run and what it left."""


class GatedSettings(Settings):
    """Which setting: the paper's width and dimension, or one that meets the theorem's conditions.

    "paper" is d = 32, m = 50; "theorem" is d = 7, m = 100, where m >= d^2 log d and tau <= 1/d.
    """

    setting: Literal["paper", "theorem"] = "paper"
    trials: PositiveInt | None = None

    @property
    def label(self) -> str:
        """quick, paper or theorem."""
        return "quick" if self.quick else self.setting


def measured(
    runs: Sequence[GatedTrials], results: Sequence[StoredRun], record: Literal["ends", "course"]
) -> list[Measured]:
    """The finished ones of the runs that leave such a record, in the order of the runs."""
    by_name = {result.name: result for result in results}
    return [
        (run, by_name[run.name]) for run in runs if run.name in by_name and run.record == record
    ]


def count_of_trainings(rows: Sequence[dict[str, Any]], target: str) -> str:
    """How many trainings there were and how they ended, as a sentence."""
    return (
        f"{sum(row['trials'] for row in rows)} trainings of the gated SSM in {len(rows)} settings; "
        f"{sum(row['reached'] for row in rows)} reached {target}, "
        f"{sum(row['diverged'] for row in rows)} diverged."
    )


def order_claim(
    statement: str, points: Sequence[dict[str, Any]], order: Literal["falls", "grows"], first: str
) -> Claim:
    """Whether the median epochs of consecutive points only fall, or only grow.

    It holds if the intervals of all neighbours lie apart and in this order. It does not hold if
    those of two neighbours lie apart the other way round. Otherwise it is not decided: intervals
    overlap, or two neighbouring medians were not reached. What was not reached counts as longer
    than all that was, so all points must have been allowed equally many epochs.

    Args:
        statement: what is claimed.
        points: rows of `trial_row`.
        order: which order is claimed.
        first: what the first point is, for the evidence.
    """
    medians = [row["epochs"] for row in points]
    if len(medians) < 2 or not any(medians):
        counted = f"{sum(map(bool, medians))} of {len(medians)} points have a median"
        return Claim(statement, "not measured", counted)
    ends = [(_or_inf(row["epochs_low"]), _or_inf(row["epochs_high"])) for row in points]
    steps = list(pairwise(ends if order == "grows" else reversed(ends)))
    right = sum(later[0] > earlier[1] for earlier, later in steps)
    wrong = sum(later[1] < earlier[0] for earlier, later in steps)
    holds = True if right == len(steps) else False if wrong else None
    shown = ", ".join("censored" if m is None else f"{m:.0f}" for m in medians)
    return Claim(
        statement,
        "not decided" if holds is None else "holds" if holds else "does not hold",
        f"median epochs from {first} up: {shown}; neighbours whose intervals lie apart in this "
        f"order: {right} of {len(steps)}",
        holds=holds,
    )


def _or_inf(epochs: float | None) -> float:
    return math.inf if epochs is None else epochs

"""What the experiments on how a gated SSM learns share: settings, results by run, claims."""

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
    statement: str,
    points: Sequence[dict[str, Any]],
    order: Literal["falls", "grows"],
    first: str,
    points_are: str,
) -> Claim:
    """Whether the median epochs of consecutive points only fall, or only grow.

    Points whose median was not reached are left out and counted; `first` says what the first
    point is, `points_are` what they are.
    """
    medians = [row["epochs"] for row in points if row["epochs"] is not None]
    counted = f"{len(medians)} of {len(points)} {points_are} have a median"
    if len(medians) < 2:
        return Claim(statement, "not measured", counted)
    sign = 1 if order == "grows" else -1
    holds = all(sign * (b - a) > 0 for a, b in pairwise(medians))
    return Claim(
        statement,
        "holds" if holds else "does not hold",
        f"median epochs from {first} up: {', '.join(f'{m:.0f}' for m in medians)}; {counted}",
        holds=holds,
    )

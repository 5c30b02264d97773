"""What trained models scored: survivors, accuracies, their means, and paired comparisons."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keelback.outcome import Column, Table
from keelback.sweeps.store import StoredRun

CONFIDENCE = 0.95
MARGIN = 0.01
"""A loss of accuracy of less than one point is none."""


def seq_len_of(run: StoredRun) -> int:
    """The length that the run was trained at."""
    return int(run.fields["task_settings"]["seq_len"])


def accuracy_of(run: StoredRun, split: str = "test") -> float:
    """The accuracy of a run that survived on one of the splits that it was scored on."""
    return float(run.summary[f"{split}_accuracy"] or 0.0)


def survivors(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs that did not diverge."""
    return [run for run in runs if not run.summary["diverged"]]


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values."""
    mean = float(np.mean(values)) if values else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def with_spread(mean: float | None, std: float | None) -> str | None:
    """`0.876 (0.015)`, as a table shows it."""
    if mean is None:
        return None
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ({std:.3f})"


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences, its 95 % interval, and the p-value of a paired t-test.

    The interval and the p-value are None for fewer than two pairs. Where all differences are equal,
    the interval is a point and the p-value 0 or 1.
    """

    pairs: int
    mean: float
    lower: float | None
    upper: float | None
    p_value: float | None

    def no_worse(self) -> bool | None:
        """True where the interval lies above -`MARGIN`, False where it lies below zero."""
        if self.lower is None or self.upper is None:
            return None
        if self.upper < 0:
            return False
        return True if self.lower > -MARGIN else None

    def text(self) -> str:
        """`+0.012, 95 % interval -0.003 to +0.027, p = 0.09 (5 pairs)`."""
        if self.lower is None or self.upper is None or self.p_value is None:
            return f"{self.mean:+.4f} (one pair)"
        return (
            f"{self.mean:+.4f}, 95 % interval {self.lower:+.4f} to {self.upper:+.4f}, "
            f"p = {self.p_value:.2g} ({self.pairs} pairs)"
        )

    def as_dict(self) -> dict[str, Any]:
        """The comparison for JSON."""
        return dict(vars(self))


def paired_difference(
    ours: Mapping[Any, float], theirs: Mapping[Any, float]
) -> PairedDifference | None:
    """Ours less theirs over the keys that both have; None where they share none."""
    from scipy import stats  # slow to import

    differences = [ours[key] - theirs[key] for key in ours if key in theirs]
    if not differences:
        return None
    mean, std = float(np.mean(differences)), 0.0
    if len(differences) < 2:
        return PairedDifference(1, mean, None, None, None)
    std = float(np.std(differences, ddof=1))
    error = std / math.sqrt(len(differences))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(differences) - 1)) * error
    if error > 0:
        p_value = float(2 * stats.t.sf(abs(mean) / error, len(differences) - 1))
    else:
        p_value = float(mean == 0)
    return PairedDifference(len(differences), mean, mean - half, mean + half, p_value)


VERDICTS = {True: "holds", False: "does not hold", None: "not decided"}
"""What the table of claims says of a statement that holds, does not, or is open."""


def by_seed(runs: Sequence[StoredRun], split: str = "test") -> dict[int, float]:
    """Each surviving seed's accuracy, averaged over the lengths at which it survived.

    One number a seed: the models of one seed share their initial values at all lengths, so that
    their scores are not independent.
    """
    scores: dict[int, list[float]] = {}
    for run in survivors(runs):
        scores.setdefault(int(run.fields["seed"]), []).append(accuracy_of(run, split))
    return {seed: float(np.mean(values)) for seed, values in scores.items()}


def shared_by_seed(
    ours: Sequence[StoredRun], theirs: Sequence[StoredRun], split: str = "test"
) -> PairedDifference | None:
    """Ours less theirs, averaged for each seed over the lengths at which both survived."""

    def keyed(runs: Sequence[StoredRun]) -> dict[tuple[int, int], StoredRun]:
        return {(seq_len_of(run), int(run.fields["seed"])): run for run in survivors(runs)}

    first, second = keyed(ours), keyed(theirs)
    shared = first.keys() & second.keys()
    return paired_difference(
        by_seed([first[key] for key in sorted(shared)], split),
        by_seed([second[key] for key in sorted(shared)], split),
    )


def divergence_tables(name: str, runs: Sequence[StoredRun]) -> list[Table]:
    """The runs that diverged, and those that went on after steps without a gradient.

    A row each; no table where there are none. `name` becomes part of the files' names.
    """
    return [*_diverged(name, runs), *_recovered(name, runs)]


def _diverged(name: str, runs: Sequence[StoredRun]) -> list[Table]:
    """Where each stood, and what overflowed first."""
    rows = [
        {
            **_which(run),
            "epoch": run.summary["diverged_epoch"],
            "step": run.summary["diverged_step"],
            "tensor": run.summary["diverged_tensor"],
        }
        for run in runs
        if run.summary["diverged"]
    ]
    columns = [
        *_WHICH,
        Column("epoch", "epoch"),
        Column("step", "step"),
        Column("tensor", "first tensor that was not finite"),
    ]
    caption = "Epochs and steps count from 1."
    title = f"Diverged: {len(rows)} of {len(runs)} trainings"
    return [Table(f"divergences-{name}", title, columns, rows, caption)] if rows else []


def _recovered(name: str, runs: Sequence[StoredRun]) -> list[Table]:
    """How many of each one's steps had no gradient left, and where it ended."""
    rows = [
        {
            **_which(run),
            "zeroed_steps": run.summary["zeroed_steps"],
            "s_A": run.summary["s_A"],
            "train": run.summary["train_accuracy"],
            "test": run.summary["test_accuracy"],
        }
        for run in runs
        if run.summary.get("zeroed_steps") and not run.summary["diverged"]
    ]
    columns = [
        *_WHICH,
        Column("zeroed_steps", "steps without gradient"),
        Column("s_A", "s_A at the end", "+.4f"),
        Column("train", "train", ".3f"),
        Column("test", "test", ".3f"),
    ]
    caption = (
        "The norm of their gradient, finite in every entry, overflowed float32 in so many steps; "
        "clipping to a norm multiplies such a gradient by zero, in PyTorch as here."
    )
    title = f"Went on after an overflow: {len(rows)} of {len(runs)} trainings"
    return [Table(f"recoveries-{name}", title, columns, rows, caption)] if rows else []


def seed_table(name: str, runs: Sequence[StoredRun]) -> Table:
    """What each seed scored on the mean of the lengths at which it survived, by model."""
    alike: dict[tuple[str, int], list[StoredRun]] = defaultdict(list)
    for run in runs:
        alike[_model_of(run), run.fields["seed"]].append(run)
    rows = []
    for (model, seed), group in sorted(alike.items()):
        trained = survivors(group)
        means = {
            split: mean_and_std([accuracy_of(run, split) for run in trained])[0]
            for split in ("train", "test")
        }
        survived = f"{len(trained)} of {len(group)}"
        rows.append({"model": model, "seed": seed, "survived": survived, **means})
    columns = [
        Column("model", "model"),
        Column("seed", "seed"),
        Column("survived", "lengths survived"),
        Column("train", "train", ".3f"),
        Column("test", "test", ".3f"),
    ]
    caption = "Means over the lengths at which the seed survived."
    return Table(f"seeds-{name}", "Accuracy by seed", columns, rows, caption)


_WHICH = (Column("seq_len", "T"), Column("model", "model"), Column("seed", "seed"))


def _which(run: StoredRun) -> dict[str, Any]:
    return {"seq_len": seq_len_of(run), "model": _model_of(run), "seed": run.fields["seed"]}


def _model_of(run: StoredRun) -> str:
    model = run.fields["model"]
    if model["kind"] != "selective-ssm":
        return str(model["kind"])
    return f"{model['parametrisation']}, start {model['spectral_abscissa']:+.2f}"

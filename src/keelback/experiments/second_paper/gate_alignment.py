"""Does a gate learn to select relevant tokens in full models too, and do other recurrences learn?

What the reviewers of arXiv 2602.12499 asked for: full Mamba blocks at depth 1, 2 and 5, ablations
of the gated SSM (frozen gate, trained W_B and W_C, other optimisers), and other ways to mix tokens
under the same readout, on majority voting and locality.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from keelback.dynamics import Locality, MajorityVoting, median_with_interval
from keelback.experiments.experiment import Experiment, Settings
from keelback.experiments.second_paper.gate_alignment_trials import (
    ACCURACY,
    DEPTHS,
    MIXERS,
    HarnessTrials,
)
from keelback.experiments.second_paper.gated_reading import shown
from keelback.outcome import Bars, Claim, Column, Figure, Mark, Outcome, Panel, Table
from keelback.sweeps.store import StoredRun


class GateAlignmentSettings(Settings):
    """Which data, and how many trials a model."""

    trials: PositiveInt | None = None


class GateAlignment(Experiment[GateAlignmentSettings]):
    """Full Mamba blocks, ablations and other recurrences: who learns which data at what cost."""

    name: ClassVar[str] = "gate-alignment"
    summary: ClassVar[str] = "do gates of full models select relevant tokens; who learns what?"
    settings_type = GateAlignmentSettings

    def runs(self, settings: GateAlignmentSettings) -> list[HarnessTrials]:
        """Every mixer, optimiser ablation and Mamba depth on both kinds of data.

        The trials of a Mamba stack are runs of their own, which workers can share.
        """
        quick = settings.quick
        length, dim = (10, 6) if quick else (14, 8)
        runs = []
        for pattern in (
            MajorityVoting(4 / length, 2 / length, length, dim),
            Locality(2, 6 if quick else 8, length, dim),
        ):
            shared: dict[str, Any] = {
                "pattern": pattern,
                "samples": 400 if quick else 1000,
                "test_samples": 200 if quick else 500,
                "steps": 150 if quick else 1000,
            }
            mixers = settings.trials or (2 if quick else 10)
            stacks = settings.trials or (1 if quick else 10)
            step = 1.0 if isinstance(pattern, MajorityVoting) else 5.0
            runs += [HarnessTrials(model=name, trials=mixers, **shared) for name in MIXERS]
            runs += [
                HarnessTrials(
                    model="gated SSM",
                    trials=mixers,
                    optimizer=optimizer,
                    step_size=step,
                    batch_size=batch,
                    **shared,
                )
                for optimizer, batch in _OPTIMIZERS
            ]
            runs += [
                HarnessTrials(model=name, trials=1, first_seed=seed, step_size=0.003, **shared)
                for name, depth in DEPTHS.items()
                if depth < 5 or not quick
                for seed in range(stacks)
            ]
        return runs

    def outcome(self, settings: GateAlignmentSettings, results: Sequence[StoredRun]) -> Outcome:
        """The table of who learns what, and how well each gate tells relevant tokens apart."""
        by_name = {result.name: result for result in results}
        found = _by_model(
            [(run, by_name[run.name]) for run in self.runs(settings) if run.name in by_name]
        )
        rows = [_model_row(run, stored) for run, stored in found]
        layers = [row for run, stored in found for row in _layer_rows(run, stored)]
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title="Gates of full models and other recurrences",
            summary=(
                f"{sum(row['trials'] for row in rows)} trainings of {len(rows)} models and data "
                f"sets by autograd; learned: test accuracy {ACCURACY:g}."
            ),
            claims=_claims(layers),
            figures=[_figure(settings, layers)],
            tables=[_model_table(settings, rows), _layer_table(settings, layers)],
            numbers={"setting": settings.label, "models": rows, "gates": layers},
        )


_OPTIMIZERS: tuple[tuple[Literal["gd", "sgd"], int | None], ...] = (("gd", None), ("sgd", 64))


def _data(run: HarnessTrials) -> str:
    return "majority" if isinstance(run.pattern, MajorityVoting) else "locality"


def _label(run: HarnessTrials) -> str:
    names = {"adam": "", "gd": ", full-batch descent", "sgd": ", SGD"}
    return run.model + names[run.optimizer]


def _by_model(
    found: Sequence[tuple[HarnessTrials, StoredRun]],
) -> list[tuple[HarnessTrials, list[StoredRun]]]:
    """The runs of each model, optimiser and kind of data together."""
    groups: dict[tuple[str, str], tuple[HarnessTrials, list[StoredRun]]] = {}
    for run, stored in found:
        groups.setdefault((_data(run), _label(run)), (run, []))[1].append(stored)
    return list(groups.values())


def _history(stored: Sequence[StoredRun]) -> list[dict[str, Any]]:
    return [dict(row) for part in stored for row in part.history()]


def _endings(stored: Sequence[StoredRun]) -> list[dict[str, Any]]:
    """The row of each trial (its last layer's, which repeats how the trial ended)."""
    return list({row["seed"]: row for row in _history(stored)}.values())


def _model_row(run: HarnessTrials, stored: Sequence[StoredRun]) -> dict[str, Any]:
    ends = _endings(stored)
    steps = np.array(
        [np.inf if e["steps_to_accuracy"] is None else e["steps_to_accuracy"] for e in ends]
    )
    return {
        "data": _data(run),
        "model": _label(run),
        "parameters": int(stored[0].summary["parameters"] or 0),
        "trials": len(ends),
        "allowed": run.steps,
        "learned": int(np.isfinite(steps).sum()),
        "steps": shown(median_with_interval(steps), ".0f"),
        "accuracy": float(np.median([e["best_accuracy"] for e in ends])),
        "diverged": sum(bool(e["diverged"]) for e in ends),
        "milliseconds": float(np.median([e["seconds"] for e in ends])) * 1e3 / run.steps,
    }


def _layer_rows(run: HarnessTrials, stored: Sequence[StoredRun]) -> list[dict[str, Any]]:
    history = _history(stored)
    rows = []
    for layer in sorted({row["layer"] for row in history if row["layer"] is not None}):
        found = [row for row in history if row["layer"] == layer]
        auc = [row["auc"] for row in found]
        rows.append(
            {
                "data": _data(run),
                "model": _label(run),
                "layer": layer,
                "relevant": float(np.median([row["relevant"] for row in found])),
                "irrelevant": float(np.median([row["irrelevant"] for row in found])),
                "auc": float(np.median(auc)),
                "auc_low": min(auc),
                "auc_high": max(auc),
                "auc_at_start": float(np.median([row["auc_at_start"] for row in found])),
                "rose": sum(row["auc"] > row["auc_at_start"] for row in found),
                "trials": len(found),
            }
        )
    return rows


def _claims(layers: Sequence[dict[str, Any]]) -> list[Claim]:
    claims = []
    for data in ("majority", "locality"):
        found = [r for r in layers if r["data"] == data and r["model"].startswith("Mamba")]
        if not found:
            continue
        selects = [row["auc"] > 0.5 and row["auc"] > row["auc_at_start"] for row in found]
        after, before = ([row[key] for row in found] for key in ("auc", "auc_at_start"))
        claims.append(
            Claim(
                f"Full Mamba blocks learn larger step sizes on relevant tokens ({data}).",
                f"holds in {sum(selects)} of {len(found)} layers",
                f"chance that delta of a relevant token exceeds that of an irrelevant one, median "
                f"over trials: {min(after):.2f} to {max(after):.2f} over the layers after "
                f"training, {min(before):.2f} to {max(before):.2f} before (0.5: no selection); it "
                f"rose in {sum(r['rose'] for r in found)} of {sum(r['trials'] for r in found)} "
                f"layers and trials",
                holds=True if all(selects) else None if any(selects) else False,
            )
        )
    return claims


def _bar_label(row: dict[str, Any]) -> str:
    """The model, short enough to stand under a bar, and the layer where there are several."""
    model: str = row["model"].removeprefix("gated SSM, ")
    return f"{model}, no. {row['layer']}" if model.startswith("Mamba") else model


def _figure(settings: GateAlignmentSettings, layers: Sequence[dict[str, Any]]) -> Figure:
    panels = []
    for data in ("majority", "locality"):
        found = [row for row in layers if row["data"] == data]
        bars = Bars(
            [_bar_label(row) for row in found],
            [row["auc"] for row in found],
            "",
            [row["auc_low"] for row in found],
            [row["auc_high"] for row in found],
        )
        panels.append(
            Panel(
                "gate",
                "share of pairs ranked right",
                "majority voting" if data == "majority" else data,
                bars=[bars],
                marks=[Mark(0.5, "no selection", axis="y")],
                y_limits=(0.0, 1.0),
            )
        )
    return Figure(
        f"gate-alignment-{settings.label}",
        "Do gates select relevant tokens?",
        panels,
        "Share of pairs of a relevant and an irrelevant token in which the relevant one's gate is "
        "wider. Bars: median over trials; whiskers: least to most. Gate frozen, W_B and W_C "
        "trained, full-batch descent and SGD: ablations of the gated SSM. Mamba: step sizes, "
        "averaged over channels.",
    )


def _model_table(settings: GateAlignmentSettings, rows: Sequence[dict[str, Any]]) -> Table:
    return Table(
        f"who-learns-what-{settings.label}",
        "Who learns which data, at what cost",
        [
            Column("data", "data"),
            Column("model", "model"),
            Column("parameters", "parameters"),
            Column("learned", "learned"),
            Column("trials", "trials"),
            Column("allowed", "steps allowed"),
            Column("steps", f"median steps to {ACCURACY:g} (95 % interval)"),
            Column("accuracy", "best accuracy", ".3f"),
            Column("diverged", "diverged"),
            Column("milliseconds", "milliseconds per step", ".2f"),
        ],
        rows,
        "Best accuracy: median over trials of the best measured. Milliseconds: processor time of "
        "one model's step, measurements included, with all trials side by side, but Mamba one "
        "by one.",
    )


def _layer_table(settings: GateAlignmentSettings, layers: Sequence[dict[str, Any]]) -> Table:
    return Table(
        f"gates-{settings.label}",
        "How wide each gate opens after training",
        [
            Column("data", "data"),
            Column("model", "model"),
            Column("layer", "layer"),
            Column("relevant", "relevant tokens", ".3f"),
            Column("irrelevant", "irrelevant tokens", ".3f"),
            Column("auc", "ranking", ".2f"),
            Column("auc_at_start", "ranking before training", ".2f"),
            Column("rose", "trials in which it rose"),
            Column("trials", "trials"),
        ],
        layers,
        "Gate of the gated SSM, step size delta of Mamba, writing strength of the delta rule, "
        "share forgotten of gated linear attention; means over tokens, medians over trials. "
        "Ranking: chance that a relevant token's gate is wider than an irrelevant one's.",
    )

"""How fast does a gated SSM learn a majority vote, and what does its gate learn?

Figures 1 and 2 of arXiv 2602.12499: epochs to the target test loss against the gap
alpha_r - alpha_c, and the alignment of the gating vector over the epochs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import numpy as np

from keelback.dynamics import (
    CorrelatedNoise,
    GaussianNoise,
    MajorityVoting,
    PowerLaw,
    StudentNoise,
    predicted,
)
from keelback.experiments.experiment import Experiment
from keelback.experiments.second_paper.gated_experiment import (
    GatedSettings,
    Measured,
    count_of_trainings,
    measured,
    order_claim,
)
from keelback.experiments.second_paper.gated_reading import (
    alignment_panels,
    bayes_note,
    conditions_table,
    course,
    epochs_figure,
    exponent_claim,
    exponent_table,
    final,
    grid_table,
    law_numbers,
    law_of,
    trial_row,
)
from keelback.experiments.second_paper.gated_trials import GatedTrials
from keelback.outcome import Claim, Column, Figure, Line, Outcome, Panel, Table
from keelback.sweeps.store import StoredRun

THEORY = -2.0
"""Exponent of the epochs in the gap: T ~ 1 / (eta gap^2)."""


_NEAR_ZERO = 0.1
"""Share of the class projections below which an irrelevant one counts as near zero."""


@dataclass(frozen=True)
class _Scale:
    length: int
    dim: int
    width: int
    other: int
    own: tuple[int, ...]
    samples: tuple[int, ...]
    epochs: int
    trials: int
    aligned: tuple[int, int, int]
    """Own tokens, samples and epochs of the alignment figure."""


_SCALES = {
    "paper": _Scale(
        30, 32, 50, 3, (6, 8, 10, 13, 18, 23), (100, 200, 400, 800), 6000, 100, (12, 400, 400)
    ),
    "theorem": _Scale(
        30, 7, 100, 3, (6, 8, 10, 13, 18, 23), (100, 200, 400, 800), 6000, 100, (12, 400, 400)
    ),
    "quick": _Scale(20, 16, 20, 2, (6, 8, 10, 12), (100, 200), 1500, 8, (8, 200, 250)),
}


_NOISES = tuple(
    family(scale)
    for scale in (0.05, 0.1, 0.2)
    for family in (GaussianNoise, StudentNoise, CorrelatedNoise)
)


class MajorityVotingExperiment(Experiment[GatedSettings]):
    """Epochs to the target against the gap for several N, and the alignment of the gate."""

    name: ClassVar[str] = "majority-voting"
    summary: ClassVar[str] = "how fast does a gated SSM learn a majority vote, and by what gate?"
    settings_type = GatedSettings

    def runs(self, settings: GatedSettings) -> list[GatedTrials]:
        """The grid of N and gap, then the run of the alignment figure."""
        scale = _SCALES[settings.label]
        grid = [
            GatedTrials(
                pattern=_pattern(scale, own),
                samples=samples,
                width=scale.width,
                epochs=scale.epochs,
                trials=settings.trials or scale.trials,
            )
            for samples in scale.samples
            for own in scale.own
        ]
        own, samples, epochs = scale.aligned
        aligned = GatedTrials(
            pattern=_pattern(scale, own),
            samples=samples,
            width=scale.width,
            epochs=epochs,
            stop_at_target=False,
            trials=min(20, settings.trials or scale.trials),
            record="course",
        )
        noisy = [
            aligned.model_copy(
                update={
                    "noise": noise,
                    "epochs": scale.epochs,
                    "stop_at_target": True,
                    "trials": settings.trials or scale.trials,
                    "record": "ends",
                }
            )
            for noise in (_NOISES[1:3] if settings.quick else _NOISES)
        ]
        return [*grid, aligned, *noisy]

    def outcome(self, settings: GatedSettings, results: Sequence[StoredRun]) -> Outcome:
        """The two figures, success shares, fitted exponents, and a verdict for each claim."""
        runs = self.runs(settings)
        ends, aligned = measured(runs, results, "ends"), measured(runs, results, "course")
        grid = [pair for pair in ends if pair[0].noise == GatedTrials.model_fields["noise"].default]
        noisy = [pair for pair in ends if pair not in grid]
        rows = [trial_row(f"N = {run.samples}", run, stored) for run, stored in grid]
        laws = {samples: law_of(points) for samples, points in _by_samples(grid)}
        claims = _rate_claims(laws, rows) + [c for pair in aligned for c in _gate_claims(*pair)]
        figures = [grid_figure(settings, rows)]
        figures += [_alignment_figure(settings, *pair) for pair in aligned]
        tables = [
            grid_table(f"majority-grid-{settings.label}", "Epochs to test loss 1e-3", "gap", rows),
            exponent_table(
                f"majority-exponents-{settings.label}",
                "Exponent of the epochs in the gap",
                {f"N = {samples}": law for samples, law in laws.items()},
                THEORY,
            ),
        ]
        if noisy:
            tables.append(_noise_table(settings, noisy))
        notes = []
        for run, _ in aligned:
            tables.append(conditions_table(f"conditions-{settings.label}", run, run.epochs))
            notes.append(bayes_note(run.pattern, run.noise.scale))
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title="Majority voting: how fast the gate learns",
            summary=count_of_trainings(rows, "test loss 1e-3"),
            claims=claims,
            figures=figures,
            tables=tables,
            notes=notes,
            numbers={
                "setting": settings.label,
                "grid": rows,
                "exponents": {str(n): law_numbers(law, THEORY) for n, law in laws.items()},
                "alignment": [_alignment_numbers(*pair) for pair in aligned],
                "noise": [_noise_row(*pair) for pair in noisy],
            },
        )


def _pattern(scale: _Scale, own: int) -> MajorityVoting:
    return MajorityVoting(own / scale.length, scale.other / scale.length, scale.length, scale.dim)


def _by_samples(
    grid: Sequence[Measured],
) -> list[tuple[int, list[Measured]]]:
    return [(n, list(points)) for n, points in groupby(grid, key=lambda pair: pair[0].samples)]


def _rate_claims(laws: dict[int, PowerLaw | None], rows: Sequence[dict[str, Any]]) -> list[Claim]:
    claims = []
    for samples, law in laws.items():
        points = [row for row in rows if row["samples"] == samples]
        statement = f"Epochs to test loss 1e-3 fall as the gap grows (N = {samples})."
        claims.append(order_claim(statement, points, "falls", "the least gap"))
        claims.append(exponent_claim(f"T ~ 1 / (eta gap^2) (N = {samples}).", law, THEORY))
    return claims


def _gate_claims(run: GatedTrials, stored: StoredRun) -> list[Claim]:
    ends = {
        key: final(stored, f"projection_{key}")
        for key in ("o_plus", "o_minus", "irrelevant_least", "irrelevant_most")
    }
    relevant = min(ends["o_plus"] + ends["o_minus"])
    stray = max(abs(value) for value in ends["irrelevant_least"] + ends["irrelevant_most"])
    ratio = stray / relevant if relevant > 0 else np.inf
    return [
        Claim(
            "The gate opens for both class features and leaves the irrelevant ones near zero.",
            "holds"
            if ratio <= _NEAR_ZERO
            else f"holds to {ratio:.0%}"
            if ratio <= 2 * _NEAR_ZERO
            else "does not hold",
            f"after {run.epochs} epochs, over {len(ends['o_plus'])} trials: least <w, o_+-> is "
            f"{relevant:.2f}, the largest |<w, o>| of an irrelevant feature {stray:.3f}",
            holds=True if ratio <= _NEAR_ZERO else None if ratio <= 2 * _NEAR_ZERO else False,
        ),
        _projection_claim(run, stored),
    ]


def _projection_claim(run: GatedTrials, stored: StoredRun) -> Claim:
    """The bound on the class projections where the target is met; from there on w rests."""
    statement = "<w, o_+-> >= (eta T / 8 L^2) (alpha_r L - alpha_c L)^2 when the target is met."
    assert isinstance(run.pattern, MajorityVoting)
    assert run.target is not None
    history: list[dict[str, Any]] = list(stored.history())
    met: dict[int, dict[str, Any]] = {}
    for row in history:
        if row["test_loss"] is not None and row["test_loss"] <= run.target:
            met.setdefault(row["seed"], row)
    if not met:
        return Claim(statement, "not measured", "no trial met the target")
    ratios = []
    for row in met.values():
        bound = predicted(run.pattern, run.step_size, row["epoch"]).class_projection
        least = min(row["projection_o_plus"], row["projection_o_minus"])
        ratios.append(least / bound if bound else np.inf)
    holds = min(ratios) >= 1
    return Claim(
        statement,
        "holds with constant 1" if holds else f"holds with constant {min(ratios):.2f}",
        f"least projection over the bound, constant taken as 1: {min(ratios):.2f} to "
        f"{max(ratios):.2f} over {len(ratios)} trials",
        holds=True if holds else None,
    )


def grid_figure(settings: GatedSettings, rows: Sequence[dict[str, Any]]) -> Figure:
    """Epochs to the target against the gap, one line per number of samples."""
    return epochs_figure(
        f"majority-epochs-{settings.label}",
        "Majority voting: epochs to the target",
        "gap α_r − α_c",
        "epochs to test loss 0.001",
        rows,
        THEORY,
    )


def _alignment_figure(settings: GatedSettings, run: GatedTrials, stored: StoredRun) -> Figure:
    projections = alignment_panels(stored, "projection", "")
    epochs = course(stored, "test_loss").x
    assert isinstance(run.pattern, MajorityVoting)
    bound = [predicted(run.pattern, run.step_size, int(t)).class_projection for t in epochs]
    theory = Line(epochs, bound, "bound, constant 1", style="dashed", reference=True)
    return Figure(
        f"majority-alignment-{settings.label}",
        "Majority voting: alignment of the gating vector",
        [
            alignment_panels(stored, "cosine", ""),
            Panel(
                projections.x_label,
                projections.y_label,
                lines=[*projections.lines, theory],
                zero_line=True,
            ),
        ],
        f"α_r = {run.pattern.relevant:g}, α_c = {run.pattern.confusing:g}, N = {run.samples} "
        f"samples; w: gating vector, o: features. Lines: median over {run.trials} trials; bands: "
        "least to most.",
    )


def _alignment_numbers(run: GatedTrials, stored: StoredRun) -> dict[str, Any]:
    keys = ("projection_o_plus", "projection_o_minus", "cosine_o_plus", "cosine_o_minus")
    stray = ("projection_irrelevant_least", "projection_irrelevant_most")
    losses = final(stored, "test_loss")
    return {
        "gap": run.pattern.gap,
        "samples": run.samples,
        "epochs": run.epochs,
        "trials": run.trials,
        "largest_test_loss": max(losses),
        **{key: [min(final(stored, key)), max(final(stored, key))] for key in keys},
        "projection_irrelevant": [min(final(stored, stray[0])), max(final(stored, stray[1]))],
    }


def _noise_row(run: GatedTrials, stored: StoredRun) -> dict[str, Any]:
    row = trial_row(_noise_name(run), run, stored)
    return {
        "noise": row.pop("series"),
        "scale": run.noise.scale,
        **row,
        "test_accuracy": float(np.median(final(stored, "test_accuracy"))),
        "test_loss": float(np.median(final(stored, "test_loss"))),
    }


def _noise_name(run: GatedTrials) -> str:
    if isinstance(run.noise, StudentNoise):
        return f"Student, {run.noise.degrees:g} degrees"
    if isinstance(run.noise, CorrelatedNoise):
        return f"correlated {run.noise.across_features:g} across features"
    return "Gaussian"


def _noise_table(settings: GatedSettings, noisy: Sequence[Measured]) -> Table:
    run = noisy[0][0]
    return Table(
        f"majority-noise-{settings.label}",
        f"Noise families at gap {run.pattern.gap:.2g}, N = {run.samples}",
        [
            Column("noise", "noise"),
            Column("scale", "tau", "g"),
            Column("reached", "reached"),
            Column("trials", "trials"),
            Column("shown_epochs", "median epochs (95 % interval)"),
            Column("test_loss", "median test loss", ".2g"),
            Column("test_accuracy", "median accuracy", ".4f"),
        ],
        [_noise_row(*pair) for pair in noisy],
        "tau is the standard deviation of one coordinate. Loss and accuracy where training ended.",
    )

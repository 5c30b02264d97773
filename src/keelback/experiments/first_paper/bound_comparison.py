"""How do the bounds depend on length, width, token norm and sample size? How far apart are they?

The table of dependences of arXiv 2502.01473, measured: every bound is evaluated along each axis and
its exponent is fitted. Then the distance of published, sharpened and lower bound on trained models.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keelback.bounds import ClassConstants, log_step_factor
from keelback.certify import measure_constants
from keelback.errors import InputError
from keelback.experiments._shared.bound_run import BoundRun
from keelback.experiments.experiment import Experiment, Settings
from keelback.models import SelectiveClassifier, load_model
from keelback.outcome import Claim, Column, Figure, Line, Outcome, Panel, Table
from keelback.sweeps.store import StoredRun

BASE = ClassConstants(
    B_u=1.6, s_A=-0.1, B_A=7.0, B_B=2.6, M_B=11.5, B_C=3.1, M_C=13.0, B_q=1.6, M_q=2.8,
    B_w=2.6, M_w=4.7, p_lo=-2.0, p_hi=-1.3, T=1000, m=10**8, d=4, N=4,
)  # fmt: skip
"""About the class of a Majority model; m is so large that no bound is cut off at the output."""

ABSCISSAS = (-0.1, 0.0, 0.1)
SELECTIVE = ("published", "sharpened", "lower")
BOUNDS = {
    "published": "selective SSM, published",
    "sharpened": "selective SSM, sharpened",
    "lower": "selective SSM, lower bound",
    "linear_attention": "linear attention",
    "softmax_attention": "softmax attention",
    "rnn": "vanilla RNN",
    "lti": "LTI SSM",
}
TRAINING_SIZES = {"majority": 1000, "listops": 1000, "imdb": 25_000}
_GATE = "B_q B_u"
_BOUND = "log₁₀ of the Rademacher complexity"
_CHECKPOINT = re.compile(r"(?P<task>[a-z]+)_T(?P<seq_len>\d+)")


class BoundComparisonSettings(Settings):
    """`checkpoints`: a folder of models named TASK_T<length>...; without it none is compared."""

    checkpoints: Path | None = None


class BoundComparison(Experiment[BoundComparisonSettings]):
    """Exponents of every bound, and orders of magnitude between them."""

    name: ClassVar[str] = "bound-comparison"
    summary: ClassVar[str] = (
        "how do the bounds depend on T, d, B_u and m, and how far apart are they?"
    )
    settings_type = BoundComparisonSettings

    def runs(self, settings: BoundComparisonSettings) -> list[BoundRun]:
        """One evaluation a point of each axis, and one a checkpoint."""
        points = [run for axis in _axes(settings).values() for run in axis]
        points += _checkpoints(settings).values()
        return list({run.name: run for run in points}.values())

    def outcome(self, settings: BoundComparisonSettings, results: Sequence[StoredRun]) -> Outcome:
        """Fits, figures and the table of distances."""
        stored = {result.name: result.summary for result in results}
        axes = {
            name: (_positions(name, runs), [stored[run.name] for run in runs])
            for name, runs in _axes(settings).items()
        }
        exponents = _exponents(axes)
        distances = [
            _distance(name, run, stored[run.name]) for name, run in _checkpoints(settings).items()
        ]
        notes = [] if distances else ["No checkpoints were named: --set checkpoints=FOLDER."]
        return Outcome(
            experiment=self.name,
            title="Bounds compared",
            summary=f"{len(results)} classes, seven bounds each.",
            claims=_claims(exponents, distances),
            figures=[_length_figure(axes), _axes_figure(axes)],
            tables=[
                _exponent_table(exponents),
                *([_distance_table(distances)] if distances else []),
            ],
            notes=notes,
            numbers={"exponents": exponents, "checkpoints": distances},
        )


Axis = tuple[list[float], list[Mapping[str, Any]]]


def _axes(settings: BoundComparisonSettings) -> dict[str, list[BoundRun]]:
    points = 7 if settings.quick else 25

    def spaced(low: float, high: float) -> list[int]:
        return sorted({round(x) for x in np.geomspace(low, high, points)})

    axes = {
        f"T, s_A = {s_A:g}": [
            BoundRun.of(dataclasses.replace(BASE, s_A=s_A, T=T)) for T in spaced(10, 10**7)
        ]
        for s_A in ABSCISSAS
    }
    axes["d"] = [BoundRun.of(dataclasses.replace(BASE, d=d)) for d in spaced(4, 4096)]
    norms = [float(x) for x in np.geomspace(1.6, 160, points)]
    gate, absolute = BASE.B_q * BASE.B_u, BASE.M_q * BASE.B_u
    axes["B_u"] = [
        BoundRun.of(dataclasses.replace(BASE, B_u=B_u, B_q=gate / B_u, M_q=absolute / B_u))
        for B_u in norms
    ]
    axes[_GATE] = [
        BoundRun.of(
            dataclasses.replace(BASE, T=10**12, B_q=reach / BASE.B_u, M_q=reach / gate * BASE.M_q)
        )
        for reach in np.linspace(2, 20, points).tolist()
    ]
    axes["m"] = [BoundRun.of(dataclasses.replace(BASE, m=m)) for m in spaced(10**5, 10**10)]
    return axes


def _positions(name: str, runs: Sequence[BoundRun]) -> list[float]:
    if name == _GATE:
        return [float(run.constants["B_q"]) * float(run.constants["B_u"]) for run in runs]
    key = "T" if name.startswith("T") else name
    return [float(run.constants[key]) for run in runs]


def _checkpoints(settings: BoundComparisonSettings) -> dict[str, BoundRun]:
    if settings.checkpoints is None:
        return {}
    paths = sorted(settings.checkpoints.glob("*_T*"))
    if not paths:
        raise InputError(f"{settings.checkpoints} holds no checkpoints named TASK_T<length>...")
    return {path.stem: _checkpoint_run(path) for path in paths}


def _checkpoint_run(path: Path) -> BoundRun:
    named = _CHECKPOINT.match(path.name)
    if named is None or named["task"] not in TRAINING_SIZES:
        raise InputError(
            f"{path} should be named TASK_T<length>..., TASK one of {', '.join(TRAINING_SIZES)}"
        )
    model = load_model(path)
    constants = measure_constants(model, int(named["seq_len"]), TRAINING_SIZES[named["task"]])
    assert isinstance(model, SelectiveClassifier)
    return BoundRun.of(
        constants, vocab_size=model.config.vocab_size, classes=model.config.n_classes
    )


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Slope over the upper half of the axis."""
    half = len(x) // 2
    return float(np.polyfit(x[half:], y[half:], 1)[0])


def _growth(lengths: Sequence[float], log10: Sequence[float]) -> tuple[float, float]:
    """b and c of log bound = a + b T + c log T over the upper half of the axis."""
    half = len(lengths) // 2
    T, y = np.array(lengths[half:]), np.array(log10[half:]) * np.log(10)
    scale = T.max()
    design = np.stack([np.ones_like(T), T / scale, np.log(T)], axis=1)
    _, b, c = np.linalg.lstsq(design, y, rcond=None)[0]
    return float(b / scale), float(c)


def _exponents(axes: Mapping[str, Axis]) -> list[dict[str, Any]]:
    rows = []
    stable, marginal, unstable = (f"T, s_A = {s_A:g}" for s_A in ABSCISSAS)
    powers = {stable: "T_stable", marginal: "T_marginal", "d": "d", "B_u": "B_u", "m": "m"}
    for bound, label in BOUNDS.items():
        values = {
            name: [float(summary[bound]) for summary in summaries]
            for name, (_, summaries) in axes.items()
        }
        row: dict[str, Any] = {"bound": bound, "label": label}
        for name, key in powers.items():
            row[key] = _slope(np.log10(axes[name][0]).tolist(), values[name])
        row["growth_per_token"], row["T_unstable"] = _growth(axes[unstable][0], values[unstable])
        row["gate_rate"] = _slope(axes[_GATE][0], values[_GATE]) * math.log(10)
        rows.append(row)
    return rows


def _distance(name: str, run: BoundRun, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "checkpoint": name,
        "T": run.constants["T"],
        "s_A": run.constants["s_A"],
        **{bound: summary[bound] for bound in ("output", *SELECTIVE)},
        "published_over_sharpened": summary["published"] - summary["sharpened"],
        "sharpened_over_lower": summary["sharpened"] - summary["lower"],
        "covering": summary["covering"],
    }


def _claims(
    exponents: Sequence[Mapping[str, Any]], distances: Sequence[Mapping[str, Any]]
) -> list[Claim]:
    of = {row["bound"]: row for row in exponents}
    published, sharpened, lower = (of[name] for name in SELECTIVE)
    rate = log_step_factor(dataclasses.replace(BASE, s_A=ABSCISSAS[-1]))
    settled = all(abs(of[name]["T_stable"]) < 0.01 for name in SELECTIVE)
    grows = abs(published["growth_per_token"] / rate - 1) < 1e-3
    factor_T = abs(published["T_unstable"] - 1) < 0.1
    tight = all(
        abs(sharpened[key] - lower[key]) < limit
        for key, limit in (("T_stable", 0.05), ("T_marginal", 0.1), ("T_unstable", 0.6))
    )
    claims = [
        Claim(
            "For a negative spectral abscissa the bound does not grow with the length.",
            "holds" if settled else "does not hold",
            f"fitted exponent of T: published {published['T_stable']:.3f}, sharpened "
            f"{sharpened['T_stable']:.3f}, lower {lower['T_stable']:.3f}",
            holds=settled,
        ),
        Claim(
            "For a positive spectral abscissa the published bound grows like T rho^T.",
            "holds" if grows and factor_T else "does not hold",
            f"growth per token {published['growth_per_token']:.5f} against log rho = {rate:.5f}, "
            f"and T to the power {published['T_unstable']:.2f}",
            holds=grows and factor_T,
        ),
        Claim(
            "Sharpened and lower bound depend on the length alike, up to a logarithm under a root.",
            "holds" if tight else "does not hold",
            f"exponents of T, sharpened against lower: {sharpened['T_stable']:.2f} and "
            f"{lower['T_stable']:.2f} (stable), {sharpened['T_marginal']:.2f} and "
            f"{lower['T_marginal']:.2f} (marginal), {sharpened['T_unstable']:.2f} and "
            f"{lower['T_unstable']:.2f} beside the exponential (unstable)",
            holds=tight,
        ),
    ]
    if distances:
        published_gap = [row["published_over_sharpened"] for row in distances]
        sharp_gap = [row["sharpened_over_lower"] for row in distances]
        claims.append(
            Claim(
                "On trained models the sharpened bound is far below the published one.",
                "holds" if min(published_gap) > 0 else "does not hold",
                f"{min(published_gap):.1f} to {max(published_gap):.1f} orders of magnitude below; "
                f"{min(sharp_gap):.1f} to {max(sharp_gap):.1f} above the lower bound",
                holds=min(published_gap) > 0,
            )
        )
    return claims


def _length_figure(axes: Mapping[str, Axis]) -> Figure:
    panels = []
    for s_A in ABSCISSAS:
        positions, summaries = axes[f"T, s_A = {s_A:g}"]
        shown = positions if s_A <= 0 else [T for T in positions if T <= 1e4]
        lines = [
            Line(
                x=shown,
                y=[float(summary[bound]) for summary in summaries[: len(shown)]],
                label=f"{bound} bound",
                style="dashed" if bound == "lower" else "solid",
            )
            for bound in SELECTIVE
        ]
        panels.append(Panel("sequence length T", _BOUND, f"s_A = {s_A:g}", lines=lines, log_x=True))
    return Figure(
        "bounds-by-length",
        "Published, sharpened and lower bound against length",
        panels,
        caption=(
            f"Bounds on the Rademacher complexity of one class of selective SSMs, m = {BASE.m:,} "
            "training sequences, s_A: the spectral abscissa that the class allows. The lower bound "
            "is for the worst sample."
        ),
    )


def _axes_figure(axes: Mapping[str, Axis]) -> Figure:
    labels = {
        "d": "input width d",
        "B_u": "bound on inputs B_u (B_q B_u fixed)",
        _GATE: "reach of the gate B_q B_u",
        "m": "training sequences m",
    }
    styles = {"sharpened": "dashed", "lower": "dotted"}
    panels = [
        Panel(
            label,
            _BOUND,
            lines=[
                Line(
                    axes[name][0],
                    [float(s[bound]) for s in axes[name][1]],
                    text,
                    style=styles.get(bound, "solid"),
                    family="selective SSM" if bound in SELECTIVE else bound,
                )
                for bound, text in BOUNDS.items()
            ],
            log_x=name != _GATE,
        )
        for name, label in labels.items()
    ]
    return Figure(
        "bounds-by-constant",
        "Every bound against the constants of its class",
        panels,
        "Upper bounds on the Rademacher complexity of a class, but the lower bound, which is for "
        "the worst sample. One constant varies in each panel.",
    )


def _exponent_table(exponents: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        name="bound-exponents",
        title="Fitted dependence of each bound",
        columns=[
            Column("label", "bound"),
            Column("T_stable", f"T (s_A = {ABSCISSAS[0]:g})", ".2f"),
            Column("T_marginal", "T (s_A = 0)", ".2f"),
            Column("growth_per_token", f"e^(. T) (s_A = {ABSCISSAS[-1]:g})", ".4f"),
            Column("T_unstable", "times T to the", ".2f"),
            Column("d", "d", ".2f"),
            Column("B_u", "B_u", ".2f"),
            Column("gate_rate", "e^(. B_q B_u)", ".2f"),
            Column("m", "m", ".2f"),
        ],
        rows=[{key: value for key, value in row.items() if key != "bound"} for row in exponents],
        caption=(
            "Exponents fitted over the upper half of each axis. B_u moves with B_q B_u held fixed, "
            "so that the steps stay as they are; the next column moves B_q alone at a length of "
            "1e12, and the published bound grows with it through 1 / (1 - rho)."
        ),
    )


def _distance_table(distances: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        name="bound-distances",
        title="Bounds of trained models, log10",
        columns=[
            Column("checkpoint", "model"),
            Column("T", "T"),
            Column("s_A", "s_A", "+.4f"),
            Column("output", "largest output", ".2f"),
            Column("published", "published", ".2f"),
            Column("sharpened", "sharpened", ".2f"),
            Column("lower", "lower", ".2f"),
            Column("published_over_sharpened", "published / sharpened", ".2f"),
            Column("sharpened_over_lower", "sharpened / lower", ".2f"),
            Column("covering", "covering gap", ".2f"),
        ],
        rows=list(distances),
        caption=(
            "Rademacher bounds of one logit for the class measured from the model; the covering "
            "gap is a risk at margin 1. The sharpened and the covering bound count the embedding "
            "as trained, the published one has fixed tokens."
        ),
    )

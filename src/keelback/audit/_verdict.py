"""The verdict in words: what was found, the evidence for it, and what to try."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from keelback.audit._degradation import Degradation
from keelback.audit._measures import LayerMeasures
from keelback.audit._precision import PrecisionEffect
from keelback.audit._spans import Span

Severity = Literal["problem", "warning", "good", "note"]

STATE_GREW = 1.5
"""Growth of the median state norm beyond the training length that is worth a warning."""
STEP_SHIFTED = 0.5
"""Shift of the median step size, in standard deviations, that is worth a warning."""
WORTH_NAMING = 0.05
"""Share of dead or saturated channels that is worth a warning."""
CLOSE_TO_OVERFLOW = 8.0
"""Headroom below which a half type is worth a warning."""
DISAGREES = 0.95
"""Agreement of the most likely token below which a half type is worth a warning."""


@dataclass(frozen=True)
class Finding:
    """One thing that an audit found: a sentence, the numbers behind it, and what to try."""

    severity: Severity
    statement: str
    evidence: str
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def findings(
    layers: Sequence[LayerMeasures],
    span: Span,
    degradation: Degradation | None,
    why_no_losses: str | None,
    precision: Sequence[PrecisionEffect],
    skipped: Mapping[str, int],
) -> list[Finding]:
    """Everything worth saying, what hurts first."""
    holds = degradation is not None and not degradation.degrades
    found = [_stability(layers), *_states(layers, span, holds), _memory(layers, span)]
    found.append(_length(span, degradation, why_no_losses))
    found += [*_idle_channels(layers), _gates(layers)]
    found += [finding for effect in precision for finding in _precision(effect)]
    if skipped:
        listed = ", ".join(f"{count} {name}" for name, count in skipped.items())
        found.append(
            Finding("note", "Part of the model is not audited.", f"No adapter reads {listed}.")
        )
    order = ("problem", "warning", "good", "note")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def in_words(found: Sequence[Finding]) -> str:
    """The verdict: what hurts, what holds, and what to try, in a few sentences."""
    bad = [f for f in found if f.severity in ("problem", "warning")]
    good = [f for f in found if f.severity == "good"]
    sentences = [f"{f.statement} {f.evidence}" for f in [*bad, *good]]
    advice = list(dict.fromkeys(f.advice for f in bad if f.advice))
    if advice:
        sentences.append("What to try: " + "; ".join(advice) + ".")
    return " ".join(sentences)


def _stability(layers: Sequence[LayerMeasures]) -> Finding:
    worst = max(layers, key=lambda layer: layer.spectral_abscissa)
    abscissa = worst.spectral_abscissa
    if abscissa < 0:
        return Finding(
            "good",
            "Stable: every state decays.",
            f"The spectral abscissa is at most {abscissa:.3g} ({worst.layer.name}).",
        )
    growing = [layer for layer in layers if layer.spectral_abscissa >= 0]
    factor = float(worst.decay.max())
    return Finding(
        "problem",
        "Unstable: some states grow instead of decaying.",
        f"{len(growing)} of {len(layers)} layers have a spectral abscissa of 0 or more; the "
        f"largest, {abscissa:.3g} in {worst.layer.name}, multiplies a state by {factor:.6g} each "
        "token.",
        "clip the abscissa (keelback repair)",
    )


def _states(layers: Sequence[LayerMeasures], span: Span, holds: bool) -> list[Finding]:
    """What leaves the range of training; only worth noting where the loss `holds` all the same."""
    overflowing = [layer for layer in layers if layer.overflow_position is not None]
    if overflowing:
        first = min(overflowing, key=lambda layer: layer.overflow_position or 0)
        return [
            Finding(
                "problem",
                "States overflow.",
                f"The state of {first.layer.name} is not finite at position "
                f"{first.overflow_position}.",
                "clip the abscissa (keelback repair)",
            )
        ]
    if not span.reaches_beyond:
        return []
    grown = [layer for layer in layers if float(layer.state_growth.median()) > STATE_GREW]
    shifted = [layer for layer in layers if float(layer.step_shift.abs().median()) > STEP_SHIFTED]
    found = []
    severity: Severity = "note" if holds else "warning"
    advice = "" if holds else f"keelback repair MODEL --target-length {span.length}"
    if grown:
        worst = max(grown, key=lambda layer: float(layer.state_growth.median()))
        found.append(
            Finding(
                severity,
                "States leave the range that training saw.",
                f"Beyond {span.train_length} tokens the median state norm grows in {len(grown)} of "
                f"{len(layers)} layers, most in {worst.layer.name}: to "
                f"{float(worst.state_growth.median()):.3g} times its size in training.",
                advice,
            )
        )
    if shifted:
        worst = max(shifted, key=lambda layer: float(layer.step_shift.abs().median()))
        found.append(
            Finding(
                severity,
                "Step sizes leave the range that training saw.",
                f"Beyond {span.train_length} tokens they shift by "
                f"{float(worst.step_shift.abs().median()):.2g} standard deviations in "
                f"{worst.layer.name}.",
                advice,
            )
        )
    return found


def _memory(layers: Sequence[LayerMeasures], span: Span) -> Finding:
    share = sum(layer.beyond_train_length for layer in layers) / len(layers)
    medians = sorted(float(layer.longest_horizon.median()) for layer in layers)
    typical = medians[len(medians) // 2]
    return Finding(
        "note",
        "A typical channel never forgets."
        if math.isinf(typical)
        else f"A typical channel remembers {float(f'{typical:.3g}'):,.10g} tokens.",
        f"{share:.0%} of the channels remember more than the {span.train_length} tokens of "
        "training: how they behave at their full reach was never trained.",
    )


def _length(span: Span, degradation: Degradation | None, why_no_losses: str | None) -> Finding:
    if degradation is None:
        reason = why_no_losses or (
            f"The text is no longer than the training length of {span.train_length}."
        )
        return Finding(
            "note", "Whether it holds beyond its training length was not tested.", reason
        )
    low, high = degradation.excess_interval
    if not degradation.degrades:
        return Finding(
            "good",
            f"Holds to {span.length} tokens, {span.length / span.train_length:.3g} times its "
            "training length.",
            f"At that length the loss is {degradation.relative_excess:+.1%} against contexts of at "
            f"most {span.train_length} tokens ({low:+.3f} to {high:+.3f} nats).",
        )
    assert degradation.onset is not None
    assert degradation.onset_interval is not None
    if degradation.excess == float("inf"):
        evidence = f"From position {degradation.onset:.0f} on the loss is not finite."
    else:
        first, last = degradation.onset_interval
        evidence = (
            f"From about {degradation.onset:.0f} tokens (95 % interval {first:.0f} to {last:.0f}) "
            f"the loss rises; at {span.length} tokens it is {degradation.relative_excess:+.1%} "
            f"against contexts of at most {span.train_length} tokens ({low:+.3f} to {high:+.3f} "
            "nats)."
        )
    return Finding(
        "problem",
        "Does not hold beyond its training length.",
        evidence,
        f"keelback repair MODEL --target-length {span.length}",
    )


def _idle_channels(layers: Sequence[LayerMeasures]) -> list[Finding]:
    found = []
    for word, meaning, shares in (
        ("dead", "their state stays at next to nothing", [_mean(x.dead) for x in layers]),
        ("saturated", "they forget within a token", [_mean(x.saturated) for x in layers]),
    ):
        worst = max(range(len(layers)), key=lambda i: shares[i])
        if shares[worst] > WORTH_NAMING:
            found.append(
                Finding(
                    "warning",
                    f"Some channels are {word}: {meaning}.",
                    f"{sum(shares) / len(shares):.1%} overall, {shares[worst]:.1%} in "
                    f"{layers[worst].layer.name}.",
                )
            )
    return found


def _gates(layers: Sequence[LayerMeasures]) -> Finding:
    by_selectivity = sorted(layers, key=lambda layer: layer.statistics.gates.selectivity())
    most = by_selectivity[-1]
    mean = sum(x.statistics.gates.selectivity() for x in layers) / len(layers)
    return Finding(
        "note",
        f"The token alone explains {mean:.0%} of how far the gates open.",
        f"Most in {most.layer.name}, {most.statistics.gates.selectivity():.0%}.",
    )


def _precision(effect: PrecisionEffect) -> list[Finding]:
    if effect.overflow_module is not None:
        where = "" if effect.overflow_position is None else f" at token {effect.overflow_position}"
        return [
            Finding(
                "problem",
                f"Overflows in {effect.precision}.",
                f"The first output that is not finite is that of {effect.overflow_module}{where}.",
                f"keep {effect.overflow_module} in float32 or run in bfloat16",
            )
        ]
    if effect.headroom < CLOSE_TO_OVERFLOW:
        return [
            Finding(
                "warning",
                f"Close to overflow in {effect.precision}.",
                f"The largest activation is a {effect.headroom:.1f}th of the type's largest value.",
                "run in bfloat16",
            )
        ]
    if effect.agreement < DISAGREES:
        return [
            Finding(
                "warning",
                f"Predictions move in {effect.precision}.",
                f"The most likely token changes at {1 - effect.agreement:.1%} of the positions.",
            )
        ]
    return []


def _mean(which: Any) -> float:
    return float(which.double().mean())

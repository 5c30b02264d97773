"""The verdict in words: what was found, the evidence for it, and what to try."""

from collections.abc import Sequence
from typing import Any

from keelback.audit._channel_findings import (
    erasures,
    gates,
    half_precision,
    idle_channels,
    memory,
)
from keelback.audit._collect import NotAudited, share_read
from keelback.audit._degradation import TOLERANCE, Degradation
from keelback.audit._findings import Finding, Severity
from keelback.audit._layers import Layer
from keelback.audit._measures import LayerMeasures
from keelback.audit._precision import PrecisionEffect
from keelback.audit._spans import Span
from keelback.audit._statistics import ROUNDED_KEY

_UNSTABLE = "Unstable: some states grow instead of decaying."
STATE_GREW = 1.5
"""Growth of the median state norm with the length that is worth a warning."""
STEP_SHIFTED = 0.5
"""Shift of the median step size with the length, in standard deviations, worth a warning."""


def findings(
    layers: Sequence[LayerMeasures],
    found: Sequence[Layer],
    span: Span,
    degradation: Degradation | None,
    why_no_losses: str | None,
    precision: Sequence[PrecisionEffect],
    missed: Sequence[NotAudited],
) -> list[Finding]:
    """Everything worth saying, what hurts first."""
    holds = degradation is not None and not degradation.degrades
    can_repair = degradation is not None and any(_can_forget_otherwise(x) for x in layers)
    result = [_coverage(layers, found, missed)]
    if layers:
        result += [
            _stability(layers, span, len(layers) < len(found), can_repair, holds),
            *_states(layers, span, holds, can_repair),
            memory(layers, span),
            *idle_channels(layers),
            *erasures(layers),
            *gates(layers),
        ]
    result.append(_length(span, degradation, why_no_losses, can_repair))
    result += [finding for effect in precision for finding in half_precision(effect)]
    besides = [m for m in missed if m.what == m.kind]
    if besides:
        listed = ", ".join(f"{m.count} {m.kind}" for m in besides)
        statement = "Part of the model is not audited."
        result.append(Finding("note", statement, f"No adapter reads {listed}."))
    order = ("problem", "warning", "good", "note")
    return sorted(result, key=lambda finding: order.index(finding.severity))


def in_words(found: Sequence[Finding]) -> str:
    """The verdict: what hurts, what holds, how much was read, and what to try."""
    bad = [f for f in found if f.severity in ("problem", "warning")]
    good = [f for f in found if f.severity == "good"]
    read = [f for f in found if f.severity == "note" and f.measure == _READ]
    sentences = [f"{f.statement} {f.evidence}" for f in [*bad, *good, *read]]
    advice = list(dict.fromkeys(f.advice for f in bad if f.advice))
    if advice:
        sentences.append("What to try: " + "; ".join(advice) + ".")
    return " ".join(sentences)


_READ = "share of the parameters of state-space layers that was read"


def _coverage(
    layers: Sequence[LayerMeasures], found: Sequence[Layer], missed: Sequence[NotAudited]
) -> Finding:
    """How much of the model was read, and how well what was read makes what the layers hand on."""
    share = share_read(layers, found)
    refuted = [m for m in missed if m.what != m.kind]
    unproved = [own for own in layers if not own.replay.is_proof]
    proved = [own.replay.difference for own in layers if own.replay.is_proof]
    count = f"{len(layers)} of {len(found)} state-space layers"
    if not layers:
        return Finding(
            "problem",
            "No state-space layer of this model could be read.",
            f"{refuted[0].what}: {refuted[0].reason}." if refuted else "",
            measure=_READ,
            value=share,
            threshold=1.0,
        )
    proof = ""
    if proved:
        how = f"to within {max(proved):.1g}" if max(proved) > 0 else "exactly"
        proof = f"Their recurrences, run again, give the layers' own results {how}."
    if refuted:
        return Finding(
            "warning",
            f"Only part of the model was read: {count}, {share:.0%} of their parameters.",
            f"Nothing that is said here holds for the others. {refuted[0].what}: "
            f"{refuted[0].reason}."
            + (f" The same is true of {len(refuted) - 1} more." if len(refuted) > 1 else ""),
            measure=_READ,
            value=share,
            threshold=1.0,
        )
    if unproved:
        return Finding(
            "warning",
            f"The reading of {len(unproved)} of {len(found)} layers is not proved.",
            "Their adapter has no hand_on, or what their states contribute is lost in rounding, so "
            "that what is read cannot be compared with the layers' own results; the first is "
            f"{unproved[0].layer.name}.",
            measure=_READ,
            value=share,
        )
    return Finding("note", f"Read: {count}.", proof, measure=_READ, value=share, threshold=1.0)


def _can_forget_otherwise(measures: LayerMeasures) -> bool:
    layer = measures.layer
    with layer.present():
        edits = layer.adapter.edit_rates(layer.module, layer.adapter.state_matrix(layer.module))
    names = [layer.full_name(name) for name in edits or {}]
    return bool(names) and all(layer.why_not_editable(name) is None for name in names)


def _stability(
    layers: Sequence[LayerMeasures], span: Span, partly: bool, can_repair: bool, holds: bool
) -> Finding:
    worst = max(layers, key=lambda layer: layer.spectral_abscissa)
    abscissa = worst.spectral_abscissa
    measured: dict[str, Any] = {
        "measure": "largest spectral abscissa",
        "value": abscissa,
        "threshold": 0.0,
    }
    enlarging = [own for own in layers if _least_step(own) < -_ROUNDED_STEP]
    if abscissa < 0 and enlarging:
        return _negative_steps(enlarging)
    if abscissa < 0 and (erasing := [own for own in layers if _growth(own) > 1 + ROUNDED_KEY]):
        return _strong_erasures(erasing)
    if abscissa < 0:
        given = all(own.layer.adapter.always_decays(own.layer.module) for own in layers)
        scope = " that was read" if partly else ""
        where = f"The spectral abscissa is at most {abscissa:.3g} ({worst.layer.name})."
        if given:
            why = " and ".join(dict.fromkeys(o.layer.adapter.decays_because for o in layers))
            where = f"By construction: {why}, whatever the weights. {where}"
        grows = dict.fromkeys(own.layer.adapter.enlarges_because for own in layers)
        if may := " and ".join(reason for reason in grows if reason):
            where = f"{where} A state may still grow for some steps: {may}."
            return Finding("good", f"Every rate{scope} decays.", where, **measured)
        return Finding("good", f"Stable: every state{scope} decays.", where, **measured)
    growing = [layer for layer in layers if layer.spectral_abscissa >= 0]
    factor = float(worst.decay.max())
    return Finding(
        "problem",
        _UNSTABLE,
        f"{len(growing)} of {len(layers)} layers have a spectral abscissa of 0 or more; the "
        f"largest, {abscissa:.3g} in {worst.layer.name}, multiplies a state by {factor:.6g} each "
        "token.",
        _clip(span, holds) if can_repair else "",
        **measured,
    )


_ROUNDED_STEP = 1e-6
"""How far rounding may push a step size below 0 that is 0."""


def _least_step(measures: LayerMeasures) -> float:
    return float(measures.statistics.step_least.min())


def _negative_steps(layers: Sequence[LayerMeasures]) -> Finding:
    """Of layers whose rates are below 0 and some of whose step sizes are too."""
    worst = min(layers, key=_least_step)
    return _enlarging(
        any(float(own.decay.max()) > 1 for own in layers),
        f"Every rate is below 0, and so are some step sizes, down to {_least_step(worst):.3g} "
        f"({worst.layer.name}): such a step multiplies a state by more than 1.",
        measure="least step size",
        value=_least_step(worst),
        threshold=0.0,
    )


def _growth(measures: LayerMeasures) -> float:
    return measures.statistics.erasure.growth


def _strong_erasures(layers: Sequence[LayerMeasures]) -> Finding:
    """Of delta rules whose rates are below 0, and whose steps erase more than what is there."""
    worst = max(layers, key=_growth)
    return _enlarging(
        any(
            own.overflow_position is not None or float(own.state_growth.median()) > STATE_GREW
            for own in layers
        ),
        f"Every rate is below 0, but a step may multiply a state by {_growth(worst):.3g} "
        f"({worst.layer.name}): it erases {worst.statistics.erasure.worst:.3g} times what the "
        "state holds along the key. "
        "Above 2, and below 0, what is left is larger than what was there.",
        measure="largest factor of a step of a delta rule",
        value=_growth(worst),
        threshold=1.0,
    )


def _enlarging(grows: bool, evidence: str, **measured: Any) -> Finding:
    """Of steps that enlarge states though every rate is below 0: a problem if states grow."""
    if grows:
        return Finding("problem", _UNSTABLE, evidence, **measured)
    statement = "Some steps enlarge states instead of shrinking them."
    return Finding("warning", statement, evidence, **measured)


def _clip(span: Span, holds: bool) -> str:
    """Where the loss holds all the same, a repair gains nothing, and is written only if forced."""
    forced = " --force" if holds else ""
    return f"clip the abscissa ({_repair_to(span)} --method clip{forced})"


def _states(
    layers: Sequence[LayerMeasures], span: Span, holds: bool, can_repair: bool
) -> list[Finding]:
    """What leaves the range of training; only worth noting where the loss `holds` all the same."""
    overflowing = [layer for layer in layers if layer.overflow_position is not None]
    if overflowing:
        first = min(overflowing, key=lambda layer: layer.overflow_position or 0)
        grows = first.spectral_abscissa >= 0
        return [
            Finding(
                "problem",
                "States overflow.",
                f"The state of {first.layer.name} is not finite at position "
                f"{first.overflow_position}.",
                _clip(span, holds) if can_repair and grows else "",
                "first position at which a state is not finite",
                float(first.overflow_position or 0),
                float(span.length),
            )
        ]
    if not span.reaches_beyond:
        return []
    severity: Severity = "note" if holds else "warning"
    advice = _repair_to(span) if can_repair and not holds else ""
    found = []
    for kind, statement, threshold, values, evidence in (
        (
            "median state growth",
            "States leave the range that training saw.",
            STATE_GREW,
            [float(own.state_growth.median()) for own in layers],
            "the median state norm is {:.3g} times that of the same tokens in contexts that "
            "training knew",
        ),
        (
            "median step size shift",
            "Step sizes leave the range that training saw.",
            STEP_SHIFTED,
            [float(own.step_shift.abs().median()) for own in layers],
            "they shift by {:.2g} standard deviations against the same tokens in contexts that "
            "training knew",
        ),
    ):
        beyond = [value for value in values if value > threshold]
        if not beyond:
            continue
        most = max(beyond)
        where = layers[values.index(most)].layer.name
        found.append(
            Finding(
                severity,
                statement,
                f"Beyond {span.train_length} tokens, in {len(beyond)} of {len(layers)} layers; in "
                f"{where} {evidence.format(most)}.",
                advice,
                kind,
                most,
                threshold,
            )
        )
    return found


def _repair_to(span: Span) -> str:
    lengths = f"--train-length {span.train_length} --target-length {span.length}"
    return f"keelback repair MODEL {lengths}"


def _length(
    span: Span, degradation: Degradation | None, why_no_losses: str | None, can_repair: bool
) -> Finding:
    if degradation is None:
        reason = (
            f"There is no loss by position: {why_no_losses}"
            if why_no_losses
            else f"The text is no longer than the training length of {span.train_length}."
        )
        return Finding(
            "note", "Whether it holds beyond its training length was not tested.", reason
        )
    low, high = degradation.excess_interval
    measured: dict[str, Any] = {
        "measure": "relative rise of the loss with the length",
        "value": degradation.relative_excess,
        "threshold": TOLERANCE,
    }
    if not degradation.degrades:
        return Finding(
            "good",
            f"Holds to {span.length} tokens, {span.length / span.train_length:.3g} times its "
            "training length.",
            f"At that length the loss is {degradation.relative_excess:+.1%} against contexts of at "
            f"most {span.train_length} tokens ({low:+.3f} to {high:+.3f} nats).",
            **measured,
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
        _repair_to(span) if can_repair else "",
        **measured,
    )

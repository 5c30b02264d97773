"""What there is to say of channels, gates and half precision."""

import math
from collections.abc import Sequence
from typing import Any

from keelback.audit._findings import Finding
from keelback.audit._measures import LayerMeasures
from keelback.audit._precision import PrecisionEffect
from keelback.audit._spans import Span

WORTH_NAMING = 0.05
"""Share of dead or saturated channels that is worth a warning."""
CLOSE_TO_OVERFLOW = 8.0
"""Headroom below which a half type is worth a warning."""
DISAGREES = 0.95
"""Agreement of the most likely token below which a half type is worth a warning."""
BY_CONSTRUCTION = 0.9999
"""Selectivity above which the step size is taken for a function of the token alone."""


def memory(layers: Sequence[LayerMeasures], span: Span) -> Finding:
    share = sum(layer.beyond_train_length for layer in layers) / len(layers)
    medians = sorted(float(layer.longest_horizon.median()) for layer in layers)
    typical = medians[len(medians) // 2]
    return Finding(
        "note",
        "A typical channel never forgets."
        if math.isinf(typical)
        else f"A typical channel remembers {float(f'{typical:.3g}'):,.10g} tokens.",
        f"{share:.0%} of the channels remember more than the {span.train_length} tokens of "
        "training: how they behave over that length was never trained.",
        measure="median horizon of the median layer, tokens",
        value=typical,
    )


def idle_channels(layers: Sequence[LayerMeasures]) -> list[Finding]:
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
                    measure=f"largest share of {word} channels in a layer",
                    value=shares[worst],
                    threshold=WORTH_NAMING,
                )
            )
    return found


def erasures(layers: Sequence[LayerMeasures]) -> list[Finding]:
    found = [own.statistics.erasure.to_json() for own in layers]
    medians = sorted(own["median"] for own in found if not math.isnan(own["median"]))
    if not medians:
        return []
    reflecting = [own["above_1"] for own in found if not math.isnan(own["above_1"])]
    middle = medians[len(medians) // 2]
    return [
        Finding(
            "note",
            f"A typical step of a delta rule erases {middle:.0%} of what is held along its key.",
            f"{sum(reflecting) / len(reflecting):.0%} of the steps erase more than all of it, "
            "which turns it round.",
            measure="median share erased along the key in the median layer",
            value=middle,
        )
    ]


def gates(layers: Sequence[LayerMeasures]) -> list[Finding]:
    shares = {
        own.layer.name: own.statistics.gates.selectivity()
        for own in layers
        if own.statistics.gates.varies
    }
    told = {name: share for name, share in shares.items() if share < BY_CONSTRUCTION}
    given = [name for name in shares if name not in told]
    aside = (
        f" Left out: {', '.join(given[:3])}, where the step is a function of the token alone by "
        "construction."
        if given
        else ""
    )
    if not told:
        return []
    most = max(told, key=lambda name: told[name])
    mean = sum(told.values()) / len(told)
    return [
        Finding(
            "note",
            f"The token alone explains {mean:.0%} of how far the gates open.",
            f"Most in {most}, {told[most]:.0%}.{aside}",
            measure="mean gate selectivity",
            value=mean,
        )
    ]


def half_precision(effect: PrecisionEffect) -> list[Finding]:
    if effect.overflow_module is not None:
        where = "" if effect.overflow_position is None else f" at token {effect.overflow_position}"
        return [
            Finding(
                "problem",
                f"Overflows in {effect.precision}.",
                f"The first output that is not finite is that of {effect.overflow_module}{where}.",
                f"keep {effect.overflow_module} in float32 or run in bfloat16",
                f"headroom in {effect.precision}",
                effect.headroom,
                1.0,
            )
        ]
    if effect.headroom < CLOSE_TO_OVERFLOW:
        return [
            Finding(
                "warning",
                f"Close to overflow in {effect.precision}.",
                f"The type's largest value is {effect.headroom:.1f} times the largest activation.",
                "run in bfloat16",
                f"headroom in {effect.precision}",
                effect.headroom,
                CLOSE_TO_OVERFLOW,
            )
        ]
    if effect.agreement < DISAGREES:
        return [
            Finding(
                "warning",
                f"Predictions move in {effect.precision}.",
                f"The most likely token changes at {1 - effect.agreement:.1%} of the positions.",
                measure=f"agreement in {effect.precision}",
                value=effect.agreement,
                threshold=DISAGREES,
            )
        ]
    return []


def _mean(which: Any) -> float:
    return float(which.double().mean())

"""Colours for light and dark, told apart by people with any common colour vision."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keelback.outcome import Bars, Figure, Histogram, Line, Panel

RAMP_STEPS = 16
SIGNED_STEPS = 17
_ORDERED = 5
"""From so many families on, families that are numbers take the colours of a scale."""


@dataclass(frozen=True)
class Theme:
    """The colours of one appearance, as `#rrggbb`.

    `series` names up to six families. Families that are numbers take their colours from a scale:
    `ramp`, whose lightness runs one way, or `signed`, which has a grey at zero. `sequential` and
    `diverging` colour heatmaps from lowest to highest.
    """

    paper: str
    raised: str
    ink: str
    muted: str
    rule: str
    good: str
    warn: str
    bad: str
    missing: str
    series: tuple[str, ...]
    ramp: tuple[str, ...]
    signed: tuple[str, ...]
    sequential: tuple[str, ...]
    diverging: tuple[str, ...]

    def colors(self) -> dict[str, str]:
        """Every colour under its token, such as `series-0` or `ramp-15`."""
        named = {
            name: getattr(self, name)
            for name in (
                "paper",
                "raised",
                "ink",
                "muted",
                "rule",
                "good",
                "warn",
                "bad",
                "missing",
            )
        }
        numbered = {
            "series": self.series,
            "ramp": [_between(self.ramp, i / (RAMP_STEPS - 1)) for i in range(RAMP_STEPS)],
            "signed": [_between(self.signed, i / (SIGNED_STEPS - 1)) for i in range(SIGNED_STEPS)],
            "sequential": self.sequential,
            "diverging": self.diverging,
        }
        for name, colors in numbered.items():
            named |= {f"{name}-{i}": color for i, color in enumerate(colors)}
        return named


LIGHT = Theme(
    paper="#ffffff",
    raised="#f6f7f8",
    ink="#1b1f24",
    muted="#626a73",
    rule="#e1e4e8",
    good="#0c7a5f",
    warn="#7a5200",
    bad="#b3400f",
    missing="#eceef0",
    series=("#3d4f99", "#d95b02", "#32935f", "#69014c", "#3899eb", "#5c440c"),
    ramp=("#27006e", "#640875", "#9c1d5f", "#c74140", "#d07d05"),
    signed=("#003967", "#1666aa", "#6b90b6", "#929292", "#ae8163", "#a34d16", "#7c2802"),
    sequential=("#f7f9f8", "#cfe5e0", "#8fc5c8", "#4a97b4", "#2b6497", "#1b3263"),
    diverging=("#1d4f8f", "#6b9fd0", "#f7f7f5", "#e39a63", "#a8430f"),
)

DARK = Theme(
    paper="#14171b",
    raised="#1c2026",
    ink="#e4e7eb",
    muted="#98a1ac",
    rule="#2d333b",
    good="#5fcfa9",
    warn="#ecc94b",
    bad="#f59a6c",
    missing="#22272e",
    series=("#6ba9f4", "#f2954a", "#a1f1c4", "#c25493", "#74d1f5", "#9c821e"),
    ramp=("#8254c4", "#d05aa3", "#ff756e", "#ffad66", "#ffdc4f"),
    signed=("#ace0fe", "#5db2f7", "#6084a9", "#696969", "#a3745b", "#e99355", "#fece96"),
    sequential=("#191e26", "#1f3a5c", "#2b6a90", "#4b9fb2", "#98d0c8", "#eef8ee"),
    diverging=("#8cc0f5", "#3f72ab", "#1d2229", "#b0693a", "#fbb888"),
)


def family_colors(figure: Figure) -> list[Mapping[str, str]]:
    """For each panel, the colour token of every family in it.

    A family has one colour in all panels, unless the palette is too small for that and no panel
    shows them all. What has no family is muted beside others, else the first colour.
    """
    panels = [list(dict.fromkeys(map(family, items(panel)))) for panel in figure.panels]
    everywhere = list(dict.fromkeys(itertools.chain(*panels)))
    together = (
        len(everywhere) <= len(LIGHT.series)
        or len(everywhere) == max(map(len, panels))
        or _numbers([name for name in everywhere if name]) is not None
    )
    return [_tokens(everywhere if together else families) for families in panels]


def repeated(colors: Mapping[str, str]) -> frozenset[str]:
    """The families whose colour another one has already: they differ in dashes or hatching."""
    seen: set[str] = set()
    again = []
    for name, token in colors.items():
        if token.startswith("series-") and token in seen:
            again.append(name)
        seen.add(token)
    return frozenset(again)


def _tokens(families: Sequence[str]) -> Mapping[str, str]:
    named = [name for name in families if name]
    tokens = {"": "muted" if named else "series-0"}
    numbers = _numbers(named)
    if numbers is None:
        hues = len(LIGHT.series)
        return tokens | {name: f"series-{i % hues}" for i, name in enumerate(named)}
    highest = max(map(abs, numbers))
    if min(numbers) < 0 < max(numbers):
        half = (SIGNED_STEPS - 1) // 2
        places = [half + round(half * number / highest) for number in numbers]
        return tokens | {n: f"signed-{i}" for n, i in zip(named, places, strict=True)}
    ranks = {number: rank for rank, number in enumerate(sorted(set(numbers)))}
    step = (RAMP_STEPS - 1) / max(len(ranks) - 1, 1)
    return tokens | {
        n: f"ramp-{round(ranks[number] * step)}" for n, number in zip(named, numbers, strict=True)
    }


def _numbers(names: Sequence[str]) -> list[float] | None:
    """The numbers that many names differ in, such as "T = 50"; `None` where they are not such."""
    if len(names) < _ORDERED:
        return None
    parts = [re.fullmatch(r"(\D*?)([+\-−]?\d+(?:\.\d+)?)", name) for name in names]
    if any(part is None for part in parts) or len({part[1] for part in parts if part}) > 1:
        return None
    return [float(part[2].replace("−", "-")) for part in parts if part]


def family(item: Line | Histogram | Bars) -> str:
    """What an item shares its colour with: its family, else its label; nothing for a reference."""
    if getattr(item, "reference", False):
        return ""
    return getattr(item, "family", None) or item.label


def items(panel: Panel) -> Sequence[Line | Histogram | Bars]:
    """Everything in a panel that has a label and a colour, in drawing order."""
    return [*panel.lines, *panel.histograms, *panel.bars]


def _between(colors: Sequence[str], position: float) -> str:
    scaled = position * (len(colors) - 1)
    i = min(int(scaled), len(colors) - 2)
    low, high = (bytes.fromhex(color[1:]) for color in colors[i : i + 2])
    return "#" + "".join(
        f"{round(a + (b - a) * (scaled - i)):02x}" for a, b in zip(low, high, strict=True)
    )

"""Colours for light and dark, told apart by people with any common colour vision."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keelback.outcome import Bars, Figure, Histogram, Line, Panel

RAMP_STEPS = 16


@dataclass(frozen=True)
class Theme:
    """The colours of one appearance, as `#rrggbb`.

    `series` names up to six families, `ramp` is the scale from which more than six are taken in
    order; `sequential` and `diverging` colour heatmaps from lowest to highest.
    """

    paper: str
    raised: str
    ink: str
    muted: str
    rule: str
    good: str
    bad: str
    missing: str
    series: tuple[str, ...]
    ramp: tuple[str, ...]
    sequential: tuple[str, ...]
    diverging: tuple[str, ...]

    def colors(self) -> dict[str, str]:
        """Every colour under its token, such as `series-0` or `ramp-15`."""
        named = {
            name: getattr(self, name)
            for name in ("paper", "raised", "ink", "muted", "rule", "good", "bad", "missing")
        }
        numbered = {
            "series": self.series,
            "ramp": [_between(self.ramp, i / (RAMP_STEPS - 1)) for i in range(RAMP_STEPS)],
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
    bad="#b3400f",
    missing="#eceef0",
    series=("#1f66b5", "#d9651a", "#109685", "#6a1258", "#3b97ea", "#5c440c"),
    ramp=("#35236f", "#2b63b3", "#17908f", "#7f9f2e", "#dd8420"),
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
    bad="#f59a6c",
    missing="#22272e",
    series=("#6aaaf5", "#f2954a", "#a5ecc6", "#cc5998", "#98d7f9", "#9d8420"),
    ramp=("#9184f2", "#5aa9ee", "#55c9b1", "#bcd166", "#f7a95c"),
    sequential=("#191e26", "#1f3a5c", "#2b6a90", "#4b9fb2", "#98d0c8", "#eef8ee"),
    diverging=("#8cc0f5", "#3f72ab", "#1d2229", "#b0693a", "#fbb888"),
)


def family_colors(figure: Figure) -> list[Mapping[str, str]]:
    """For each panel, the colour token of every family in it.

    A family has one colour in all panels, unless the palette is too small for that and no panel
    shows them all. Lines without family and label are muted beside others, else the first colour.
    """
    panels = [list(dict.fromkeys(map(family, items(panel)))) for panel in figure.panels]
    everywhere = list(dict.fromkeys(itertools.chain(*panels)))
    if len(everywhere) <= len(LIGHT.series) or len(everywhere) == max(map(len, panels)):
        return [_tokens(everywhere)] * len(panels)
    return [_tokens(families) for families in panels]


def _tokens(families: Sequence[str]) -> Mapping[str, str]:
    named = [name for name in families if name]
    tokens = {"": "muted" if named else "series-0"}
    if len(named) <= len(LIGHT.series):
        return tokens | {name: f"series-{i}" for i, name in enumerate(named)}
    step = (RAMP_STEPS - 1) / (len(named) - 1)
    return tokens | {name: f"ramp-{round(i * step)}" for i, name in enumerate(named)}


def family(item: Line | Histogram | Bars) -> str:
    """What an item shares its colour with: its family where it has one, else its label."""
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

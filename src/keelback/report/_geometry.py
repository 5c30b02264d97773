"""What both renderers need to know about a panel before they draw it."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keelback.errors import printable
from keelback.outcome import Figure, Heatmap, Line, Mark, Panel
from keelback.report._palette import Theme, family, family_colors, items, repeated

MARKER_LIMIT = 32
"""A solid line of at most this many points shows where it was measured."""
SHARED_LEGEND = 8
"""A legend of all panels holds at most this many entries, unless one panel needs more."""


@dataclass(frozen=True)
class LegendEntry:
    """A label of a figure, its colour token, and its `style`: a line's, or "fill".

    `again` marks an entry whose colour another one has: it differs in dashes or hatching.
    """

    label: str
    color: str
    style: str
    again: bool = False


def legends(figure: Figure) -> list[list[LegendEntry]]:
    """The legend of each panel; the first speaks for all where each colour has one meaning.

    A single label that nothing stands beside is no legend.
    """
    colors = family_colors(figure)
    panels = [
        [
            LegendEntry(
                item.label,
                tokens[family(item)],
                getattr(item, "style", "fill"),
                family(item) in repeated(tokens),
            )
            for item in items(panel)
        ]
        for panel, tokens in zip(figure.panels, colors, strict=True)
    ]
    distinct = [list(dict.fromkeys(entries)) for entries in panels]
    everywhere = list(dict.fromkeys(itertools.chain(*distinct)))
    alike = all(tokens == colors[0] for tokens in colors)
    if any(len(entries) == len(everywhere) for entries in distinct) or (
        alike and len(everywhere) <= SHARED_LEGEND
    ):
        distinct = [everywhere] + [[] for _ in figure.panels[1:]]
    return [
        [entry for entry in entries if entry.label] if len(entries) > 1 else []
        for entries in distinct
    ]


def stands_sideways(panel: Panel) -> bool:
    """Whether the bars of a panel lie, since their names are too long to stand in a row."""
    names = bar_places(panel)
    return bool(panel.bars) and is_categorical(names) and sum(map(len, category_labels(names))) > 40


def drawable(values: Sequence[float | None], log: bool = False) -> list[float | None]:
    """`values` with `None` for what no axis can place: NaN, infinities, on log axes v <= 0."""
    return [
        None if v is None or not math.isfinite(v) or (log and v <= 0) else float(v) for v in values
    ]


def band_segments(line: Line, panel: Panel) -> list[list[tuple[float, float, float]]]:
    """The unbroken stretches of a line's band, as (x, lower, upper)."""
    if line.lower is None or line.upper is None:
        return []
    segments: list[list[tuple[float, float, float]]] = [[]]
    xs = drawable(line.x, panel.log_x)
    lower, upper = drawable(line.lower, panel.log_y), drawable(line.upper, panel.log_y)
    for x, low, high in zip(xs, lower, upper, strict=True):
        if x is None or low is None or high is None:
            segments.append([])
        else:
            segments[-1].append((x, low, high))
    return [segment for segment in segments if segment]


def whiskers(y: Sequence[float | None], ends: Sequence[float | None] | None) -> list[float] | None:
    """How far each end lies from `y`; zero where either is missing."""
    if ends is None:
        return None
    pairs = zip(drawable(y), drawable(ends), strict=True)
    return [0.0 if a is None or b is None else abs(b - a) for a, b in pairs]


def placed_marks(panel: Panel) -> list[Mark]:
    """The marks of a panel at values that its axes can place."""
    log = {"x": panel.log_x, "y": panel.log_y}
    return [mark for mark in panel.marks if drawable([mark.at], log[mark.axis]) != [None]]


def has_markers(line: Line) -> bool:
    """Whether a line shows its points: always in style "points", else where they are few."""
    return (
        line.style == "points"
        or len(line.x) == 1
        or (line.style == "solid" and len(line.x) <= MARKER_LIMIT)
    )


def decades(values: Iterable[float | None]) -> float:
    """The powers of ten that `values` span, leaving out what no log axis can place."""
    placed = [v for v in drawable(list(values), log=True) if v is not None]
    return math.log10(max(placed) / min(placed)) if placed else 0.0


def is_categorical(values: Sequence[float | str]) -> bool:
    """Whether an axis lists names: any string, or numbers that do not strictly rise."""
    numbers = [v for v in values if not isinstance(v, str)]
    return len(numbers) < len(values) or any(not a < b for a, b in itertools.pairwise(numbers))


def bar_places(panel: Panel) -> list[float | str]:
    """Where the bars of a panel stand, each place once."""
    return list(dict.fromkeys(x for bars in panel.bars for x in bars.x))


def runs_down(heatmap: Heatmap) -> bool:
    """Whether the first row of a heatmap is at the top."""
    return heatmap.from_top or is_categorical(heatmap.y)


def category_labels(values: Sequence[float | str], longest: int = 24) -> list[str]:
    """One short printable label per value; the same value twice keeps two places on the axis."""
    labels: list[str] = []
    seen: dict[str, int] = {}
    for value in values:
        text = shortened(visible(value if isinstance(value, str) else f"{value:g}"), longest)
        repeats = seen.get(text, 0)
        seen[text] = repeats + 1
        labels.append(text + "\u200b" * repeats)
    return labels


def shortened(text: str, longest: int) -> str:
    """`text` in at most `longest` characters, an ellipsis for the rest."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def visible(text: str) -> str:
    """`printable` text of a token or a cell, whose line breaks and tabs are shown, not spaced."""
    return printable(text.replace("\r\n", "\n").replace("\n", "↵").replace("\t", "⇥"))


def color_range(heatmap: Heatmap) -> tuple[float, float]:
    """The values at the two ends of the colour scale; never equal."""
    values = [v for row in heatmap.values for v in drawable(row) if v is not None] or [0.0, 1.0]
    low = min(values) if heatmap.lowest is None else heatmap.lowest
    high = max(values) if heatmap.highest is None else heatmap.highest
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    return (low, high) if low < high else (low, low + max(abs(low), 1.0) * 1e-6)


def color_scale(heatmap: Heatmap, theme: Theme) -> dict[str, str]:
    """Colours from lowest to highest under their tokens; diverging where the range crosses zero."""
    low, high = color_range(heatmap)
    name, colors = (
        ("diverging", theme.diverging) if low < 0 < high else ("sequential", theme.sequential)
    )
    return {f"{name}-{i}": color for i, color in enumerate(colors)}

"""Figures for papers and README files: Matplotlib, PNG and PDF."""

from __future__ import annotations

import io
import itertools
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keelback.outcome import Figure, Heatmap, Histogram, Line, Panel
from keelback.report._files import file_stem, require_report_extra, writable_directory, write_file
from keelback.report._geometry import (
    LegendEntry,
    band_segments,
    bar_places,
    category_labels,
    color_range,
    color_scale,
    drawable,
    has_markers,
    is_categorical,
    legends,
    runs_down,
    stands_sideways,
    whiskers,
)
from keelback.report._marks import draw_marks
from keelback.report._palette import LIGHT, family, family_colors, repeated
from keelback.report._ticks import label_linear_axis, label_log_axis
from keelback.report._wrapping import NOTE, literal, width, wrapped

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

DPI = 200
_MOST_ENLARGEMENTS = 6
PANELS_IN_A_ROW = 3
DASHES: dict[str, Any] = {
    "solid": "-",
    "dashed": (0, (4, 2)),
    "dotted": (0, (1, 1.5)),
    "points": "none",
}
DASHES_AGAIN: dict[str, Any] = DASHES | {"solid": (0, (6, 1.5, 1.5, 1.5))}
"""The dashes of a line whose colour another one has."""
TITLE, LABEL = 9.5, 8
"""Sizes of text, in points."""
_NAME = 1.45
"""The inches that the name of a bar may take before it is broken into lines."""
FONTS = ("Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
COLORS = LIGHT.colors()


def save_figure(
    figure: Figure, directory: str | os.PathLike[str], stem: str | None = None
) -> tuple[Path, Path]:
    """Draw `figure` into `directory` as a PNG at 200 dpi and a PDF; return the two paths.

    The files are named after the figure, or `stem`. The same figure gives the same bytes. Raises
    `InputError` where the `report` extra is missing or the directory cannot be written to.

    Examples:
        >>> from keelback.outcome import Figure, Line, Panel
        >>> panel = Panel("length", "test accuracy", lines=[Line([25, 50], [0.91, 0.92])])
        >>> figure = Figure("length", "Accuracy against length", [panel], "One trained model.")
        >>> [path.name for path in save_figure(figure, "figures")]
        ['length.png', 'length.pdf']
    """
    require_report_extra()
    import matplotlib

    folder = writable_directory(directory)
    stem = file_stem(figure.name) if stem is None else stem
    with matplotlib.rc_context(_style()):
        canvas = _draw(figure)
        png = _rendered(canvas, format="png", dpi=DPI, metadata={"Software": None})
        pdf = _rendered(canvas, format="pdf", metadata={"CreationDate": None, "Creator": None})
    return write_file(folder / f"{stem}.png", png), write_file(folder / f"{stem}.pdf", pdf)


def _rendered(canvas: Canvas, **options: Any) -> bytes:
    """The figure as a file, enlarged as long as its labels leave no room for its panels."""
    for _ in range(_MOST_ENLARGEMENTS):
        file = io.BytesIO()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            canvas.savefig(file, **options)
        if not any("constrained_layout not applied" in str(one.message) for one in caught):
            break
        width, height = canvas.get_size_inches()
        canvas.set_size_inches(1.3 * width, 1.3 * height)
    return file.getvalue()


def _style() -> Any:
    from matplotlib import font_manager

    installed = set(font_manager.fontManager.get_font_names())
    return {
        "font.family": [name for name in FONTS if name in installed],
        "font.size": 8,
        "text.hinting": "none",  # With hints a text is wider at one resolution than at another.
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7.5,
        "figure.titlesize": TITLE,
        "text.color": COLORS["ink"],
        "axes.labelcolor": COLORS["ink"],
        "axes.edgecolor": COLORS["muted"],
        "xtick.color": COLORS["muted"],
        "ytick.color": COLORS["muted"],
        "xtick.labelcolor": COLORS["ink"],
        "ytick.labelcolor": COLORS["ink"],
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": COLORS["rule"],
        "grid.linewidth": 0.5,
        "lines.linewidth": 1.4,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "legend.handlelength": 1.8,
        "pdf.fonttype": 42,
        "mathtext.default": "regular",
    }


def _draw(figure: Figure) -> Canvas:
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(len(figure.panels), PANELS_IN_A_ROW) if len(figure.panels) != 4 else 2
    across = 4.4 if columns == 1 else 7.0
    if any(map(_names_are_long, figure.panels)):
        columns = 1
    rows = math.ceil(len(figure.panels) / columns)
    row_height = max({1: 2.9, 2: 2.7, 3: 2.3}[columns], *map(_names_height, figure.panels))
    title = wrapped(figure.title, across - 0.15, TITLE, "bold")
    caption = wrapped(figure.caption, across - 0.15, NOTE, longest=1200)
    caption_height = 0.08 + len(caption) * NOTE * 1.25 / 72 if caption else 0.0
    entries = legends(figure)
    shared = not any(entries[1:])
    legend_columns, legend_height = _legend_size(entries[0] if shared else [], across)
    below = legend_height + caption_height
    height = row_height * rows + 0.2 * len(title) + 0.25 + below
    canvas = Canvas(
        figsize=(across, height),
        layout=ConstrainedLayoutEngine(
            w_pad=0.05,
            h_pad=0.06,
            wspace=0.03,
            hspace=0.06,
            rect=(0, below / height, 1, 1 - below / height),
        ),
        facecolor="white",
    )
    axes = canvas.subplots(rows, columns, squeeze=False).ravel()
    for i, (panel, tokens) in enumerate(zip(figure.panels, family_colors(figure), strict=True)):
        size = (across / columns - 0.7, row_height - 0.7)
        _draw_panel(panel, axes[i], tokens, size)
        upright = not stands_sideways(panel)
        before = figure.panels[i - 1]
        repeats = panel.y_label == before.y_label and before.heatmap is None
        if upright and i % columns and repeats:
            axes[i].set_ylabel("")
        if entries[i] and not shared:
            axes[i].legend(
                handles=_handles(entries[i], longest=28),
                loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
            )
    for ax in axes[len(figure.panels) :]:
        ax.set_axis_off()
    if title:
        canvas.suptitle("\n".join(title), x=0.012, ha="left", fontweight="bold")
    if shared and entries[0]:
        canvas.legend(
            handles=_handles(entries[0]),
            loc="lower center",
            ncols=legend_columns,
            bbox_to_anchor=(0.5, caption_height / height),
            borderaxespad=0,
        )
    if caption:
        canvas.text(
            0.012,
            0.05 / height,
            "\n".join(caption),
            fontsize=NOTE,
            color=COLORS["muted"],
            va="bottom",
            linespacing=1.2,
        )
    return canvas


def _names_are_long(panel: Panel) -> bool:
    """Whether the names of a map's rows leave too little of half a page for its cells."""
    names = panel.heatmap.y if panel.heatmap is not None else []
    return is_categorical(names) and max(map(len, category_labels(names, 40)), default=0) > 16


def _names_height(panel: Panel) -> float:
    """The inches that the names need where they stand one below the other."""
    if panel.heatmap is not None:
        names = panel.heatmap.y
        return 1.3 + 0.13 * len(names) if is_categorical(names) and len(names) <= 40 else 0.0
    if not stands_sideways(panel):
        return 0.0
    lines = [wrapped(name, _NAME, 7) for name in category_labels(bar_places(panel), 60)]
    return 0.8 + sum(max(0.05 + 0.12 * len(name), 0.09 * len(panel.bars)) for name in lines)


def _legend_size(entries: Sequence[LegendEntry], across: float) -> tuple[int, float]:
    """How many columns a legend below the panels has, and how many inches it takes."""
    if not entries:
        return 1, 0.0
    widest = max(width(literal(entry.label), 7.5) for entry in entries) + 0.55
    columns = max(1, min(int((across - 0.2) / widest), len(entries)))
    return columns, 0.1 + 0.165 * math.ceil(len(entries) / columns)


def _draw_panel(
    panel: Panel, ax: Axes, tokens: Mapping[str, str], size: tuple[float, float]
) -> None:
    across, high = size
    labels = [panel.x_label, panel.y_label]
    if stands_sideways(panel):
        labels.reverse()
    ax.set_xlabel("\n".join(wrapped(labels[0], across, LABEL, longest=80)))
    ax.set_ylabel("\n".join(wrapped(labels[1], high, LABEL, longest=80)))
    rows = _draw_content(panel, ax, tokens, size)
    if panel.title:
        title = "\n".join(wrapped(panel.title, across, LABEL, longest=80))
        ax.set_title(title, loc="left", pad=5 + 9 * rows)


def _draw_content(
    panel: Panel, ax: Axes, tokens: Mapping[str, str], size: tuple[float, float]
) -> int:
    """Draw everything between the axes; return the rows of text that stand above them."""
    if panel.heatmap is not None:
        _draw_heatmap(panel.heatmap, panel, ax)
        return 0
    colors = {name: COLORS[token] for name, token in tokens.items()}
    again = repeated(tokens)
    for histogram in panel.histograms:
        _draw_histogram(histogram, ax, colors[family(histogram)])
    if panel.bars:
        _draw_bars(panel, ax, colors, again)
    crowd = len(panel.lines) > 8
    for line in panel.lines:
        dashes = DASHES_AGAIN if family(line) in again else DASHES
        _draw_line(line, panel, ax, colors[family(line)], dashes[line.style], crowd)
    _scale_axes(panel, ax)
    rows = draw_marks(panel, ax, size, COLORS["muted"])
    _label_axes(panel, ax)
    return rows


def _draw_line(line: Line, panel: Panel, ax: Axes, color: str, dashes: Any, crowd: bool) -> None:
    from matplotlib.lines import Line2D

    x, y = (
        [math.nan if v is None else v for v in drawable(values, log)]
        for values, log in ((line.x, panel.log_x), (line.y, panel.log_y))
    )
    if line.style == "points":
        lower, upper = whiskers(line.y, line.lower), whiskers(line.y, line.upper)
        if lower and upper:
            ax.errorbar(x, y, [lower, upper], fmt="none", ecolor=color, elinewidth=0.9, alpha=0.6)
    else:
        for segment in band_segments(line, panel):
            xs, lows, highs = zip(*segment, strict=True)
            ax.fill_between(xs, lows, highs, color=color, alpha=0.16, linewidth=0)
    ax.add_line(
        Line2D(
            x,
            y,
            color=color,
            linestyle=dashes,
            linewidth=1.0 if crowd else 1.4,
            alpha=0.85 if crowd else 1.0,
            marker="o" if has_markers(line) else "",
            markersize=3.6 if line.style == "points" else 2.4,
            markeredgewidth=0,
        )
    )
    ax.autoscale_view()


def _draw_histogram(histogram: Histogram, ax: Axes, color: str) -> None:
    counts, edges = list(histogram.counts), list(histogram.edges)
    ax.stairs(counts, edges, fill=True, color=color, alpha=0.22, linewidth=0)
    ax.stairs(counts, edges, color=color, linewidth=1.1)


def _draw_bars(panel: Panel, ax: Axes, colors: Mapping[str, str], again: frozenset[str]) -> None:
    bars = panel.bars
    names = bar_places(panel)
    categorical = is_categorical(names)
    sideways = stands_sideways(panel)
    numbers = [x for x in names if not isinstance(x, str)]
    gaps = [b - a for a, b in itertools.pairwise(numbers)]
    thick = 0.8 / len(bars) * (1.0 if categorical or not gaps else min(gaps))
    for i, series in enumerate(bars):
        shift = (i - (len(bars) - 1) / 2) * thick
        places = [names.index(x) if categorical else float(x) for x in series.x]
        heights = [0.0 if v is None else v for v in drawable(series.y)]
        lower, upper = whiskers(series.y, series.lower), whiskers(series.y, series.upper)
        errors: dict[str, Any] = {}
        if lower and upper:
            errors["xerr" if sideways else "yerr"] = [lower, upper]
        (ax.barh if sideways else ax.bar)(
            [place + shift for place in places],
            heights,
            thick * 0.94,
            color=colors[family(series)],
            hatch="////" if family(series) in again else None,
            edgecolor="white",
            linewidth=0,
            **errors,
            error_kw={"elinewidth": 0.8, "ecolor": COLORS["ink"]},
        )
    ax.grid(visible=False, axis="y" if sideways else "x")
    if categorical:
        _name_ticks(ax, "y" if sideways else "x", names)
    if sideways:
        ax.invert_yaxis()


def _draw_heatmap(heatmap: Heatmap, panel: Panel, ax: Axes) -> None:
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    low, high = color_range(heatmap)
    scale = LinearSegmentedColormap.from_list("scale", list(color_scale(heatmap, LIGHT).values()))
    values = np.array([drawable(row) for row in heatmap.values], dtype=float)
    x, y = _edges(heatmap.x, panel.log_x), _edges(heatmap.y, panel.log_y)
    ax.set_facecolor(COLORS["missing"])
    mesh = ax.pcolormesh(
        x, y, values, cmap=scale, vmin=low, vmax=high, rasterized=values.size > 4096
    )
    ax.grid(visible=False)
    _scale_axes(panel, ax)
    for axis, names in (("x", heatmap.x), ("y", heatmap.y)):
        if is_categorical(names):
            _name_ticks(ax, axis, names, inches=2.5)
    if runs_down(heatmap):
        ax.invert_yaxis()
    bar = ax.figure.colorbar(mesh, ax=ax, label=literal(heatmap.label, 30), fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)


def _edges(centres: Sequence[float | str], log: bool) -> list[float]:
    """The borders of cells around `centres`, half way between them on the axis as drawn."""
    if is_categorical(centres):
        return [i - 0.5 for i in range(len(centres) + 1)]
    log = log and all(float(c) > 0 for c in centres)
    places = [math.log(float(c)) if log else float(c) for c in centres]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(places)]
    first = places[0] - (middles[0] - places[0] if middles else 0.5)
    last = places[-1] + (places[-1] - middles[-1] if middles else 0.5)
    edges = [first, *middles, last]
    return [math.exp(edge) for edge in edges] if log else edges


def _name_ticks(ax: Axes, axis: str, names: Sequence[float | str], inches: float = _NAME) -> None:
    labels = [literal(label) for label in category_labels(names, 60 if axis == "y" else 24)]
    room = 40 if axis == "y" else 16
    step = math.ceil(len(labels) / room)
    if axis == "y":
        labels = ["\n".join(wrapped(label, inches, 7)) for label in labels]
    slanted = axis == "x" and sum(map(len, labels[::step])) > 40
    ax.set(**{f"{axis}ticks": range(0, len(labels), step), f"{axis}ticklabels": labels[::step]})
    if slanted:
        ax.tick_params(axis="x", labelrotation=45)
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def _scale_axes(panel: Panel, ax: Axes) -> None:
    sideways = stands_sideways(panel)
    if panel.log_x:
        ax.set_xscale("log")
    if panel.log_y:
        ax.set(**{"xscale" if sideways else "yscale": "log"})
    if panel.y_limits is not None and not (panel.log_y and panel.y_limits[0] <= 0):
        (ax.set_xlim if sideways else ax.set_ylim)(*panel.y_limits)
    if panel.zero_line and not panel.log_y:
        across = ax.axvline if sideways else ax.axhline
        across(0.0, color=COLORS["muted"], linewidth=0.8, zorder=1.5)


def _xs(panel: Panel) -> list[float]:
    return [x for line in panel.lines for x in line.x]


def _label_axes(panel: Panel, ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    if panel.lines and not panel.log_x and all(float(x).is_integer() for x in _xs(panel)):
        ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    for axis, scale in ((ax.xaxis, ax.get_xscale()), (ax.yaxis, ax.get_yscale())):
        if scale == "log":
            label_log_axis(axis)
        else:
            label_linear_axis(axis)


def _handles(entries: Sequence[LegendEntry], longest: int = 60) -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Patch(
            facecolor=COLORS[entry.color],
            edgecolor="white",
            hatch="////" if entry.again else None,
            linewidth=0,
            label=literal(entry.label, longest),
        )
        if entry.style == "fill"
        else Line2D(
            [],
            [],
            color=COLORS[entry.color],
            linestyle=(DASHES_AGAIN if entry.again else DASHES)[entry.style],
            marker="o" if entry.style == "points" else "",
            markersize=3.6,
            label=literal(entry.label, longest),
        )
        for entry in entries
    ]

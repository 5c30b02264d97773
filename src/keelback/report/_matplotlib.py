"""Figures for papers and README files: Matplotlib, PNG and PDF."""

from __future__ import annotations

import io
import itertools
import math
import os
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keelback.errors import printable
from keelback.outcome import Figure, Heatmap, Histogram, Line, Panel
from keelback.report._files import (
    file_stem,
    require_report_extra,
    writable_directory,
    write_file,
)
from keelback.report._geometry import (
    LegendEntry,
    band_segments,
    bar_places,
    category_labels,
    color_range,
    color_scale,
    decades,
    drawable,
    has_markers,
    is_categorical,
    legends,
    placed_marks,
    runs_down,
    shortened,
    whiskers,
)
from keelback.report._palette import LIGHT, family, family_colors

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
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
FONTS = ("Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")
COLORS = LIGHT.colors()


def save_figure(
    figure: Figure, directory: str | os.PathLike[str], stem: str | None = None
) -> tuple[Path, Path]:
    """Draw `figure` into `directory` as a PNG at 200 dpi and a PDF; return the two paths.

    The files are named after the figure, or `stem`. The same figure gives the same bytes. Raises
    `InputError` where the `report` extra is missing or the directory cannot be written to.
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
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7.5,
        "figure.titlesize": 9.5,
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
    rows = math.ceil(len(figure.panels) / columns)
    width = 4.4 if columns == 1 else 7.0
    height = {1: 2.9, 2: 2.7, 3: 2.3}[columns]
    canvas = Canvas(
        figsize=(width, height * rows + 0.45),
        layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.06, wspace=0.03, hspace=0.06),
        facecolor="white",
    )
    axes = canvas.subplots(rows, columns, squeeze=False).ravel()
    entries = legends(figure)
    shared = len(figure.panels) > 1 and not any(entries[1:])
    for i, (panel, tokens) in enumerate(zip(figure.panels, family_colors(figure), strict=True)):
        _draw_panel(panel, axes[i], {name: COLORS[token] for name, token in tokens.items()})
        if i % columns and panel.y_label == figure.panels[i - 1].y_label:
            axes[i].set_ylabel("")
        if entries[i] and not shared:
            beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
            axes[i].legend(
                handles=_handles(entries[i], longest=28), **(beside if len(entries[i]) > 5 else {})
            )
    for ax in axes[len(figure.panels) :]:
        ax.set_axis_off()
    if figure.title:
        lines = textwrap.wrap(_text(figure.title, 200), 46 if columns == 1 else 76)
        canvas.suptitle("\n".join(lines), x=0.012, ha="left", fontweight="bold")
    if shared and entries[0]:
        longest = max(len(_text(entry.label)) for entry in entries[0])
        fitting = max(1, 80 // (longest + 7))
        canvas.legend(
            handles=_handles(entries[0]),
            loc="outside lower center",
            ncols=min(fitting, len(entries[0])),
        )
    return canvas


def _draw_panel(panel: Panel, ax: Axes, colors: Mapping[str, str]) -> None:
    ax.set_xlabel(_text(panel.x_label, 40))
    ax.set_ylabel(_text(panel.y_label, 40))
    if panel.title:
        ax.set_title(_text(panel.title, 40), loc="left", pad=5)
    if panel.heatmap is not None:
        _draw_heatmap(panel.heatmap, panel, ax)
        return
    for histogram in panel.histograms:
        _draw_histogram(histogram, ax, colors[family(histogram)])
    if panel.bars:
        _draw_bars(panel, ax, colors)
    crowd = len(panel.lines) > 8
    for line in panel.lines:
        _draw_line(line, panel, ax, colors[family(line)], crowd)
    _scale_axes(panel, ax)
    _draw_marks(panel, ax)


def _draw_line(line: Line, panel: Panel, ax: Axes, color: str, crowd: bool) -> None:
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
            linestyle=DASHES[line.style],
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


def _draw_bars(panel: Panel, ax: Axes, colors: Mapping[str, str]) -> None:
    bars = panel.bars
    names = bar_places(panel)
    categorical = is_categorical(names)
    numbers = [x for x in names if not isinstance(x, str)]
    gaps = [b - a for a, b in itertools.pairwise(numbers)]
    width = 0.8 / len(bars) * (1.0 if categorical or not gaps else min(gaps))
    for i, series in enumerate(bars):
        shift = (i - (len(bars) - 1) / 2) * width
        places = [names.index(x) if categorical else float(x) for x in series.x]
        heights = [0.0 if v is None else v for v in drawable(series.y)]
        lower, upper = whiskers(series.y, series.lower), whiskers(series.y, series.upper)
        ax.bar(
            [place + shift for place in places],
            heights,
            width * 0.94,
            color=colors[family(series)],
            yerr=[lower, upper] if lower and upper else None,
            error_kw={"elinewidth": 0.8, "ecolor": COLORS["ink"]},
        )
    ax.grid(visible=False, axis="x")
    if categorical:
        _name_ticks(ax, "x", names)


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
            _name_ticks(ax, axis, names)
    if runs_down(heatmap):
        ax.invert_yaxis()
    bar = ax.figure.colorbar(mesh, ax=ax, label=_text(heatmap.label, 30), fraction=0.05, pad=0.02)
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


def _name_ticks(ax: Axes, axis: str, names: Sequence[float | str]) -> None:
    labels = [_text(label) for label in category_labels(names)]
    room = 24 if axis == "y" else 16
    step = math.ceil(len(labels) / room)
    slanted = axis == "x" and sum(map(len, labels[::step])) > 40
    ax.set(**{f"{axis}ticks": range(0, len(labels), step), f"{axis}ticklabels": labels[::step]})
    if slanted:
        ax.tick_params(axis="x", labelrotation=45)
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def _scale_axes(panel: Panel, ax: Axes) -> None:
    if panel.log_x:
        ax.set_xscale("log")
        _label_log_axis(ax.xaxis, decades(x for line in panel.lines for x in line.x))
    if panel.log_y:
        ax.set_yscale("log")
        _label_log_axis(ax.yaxis, decades(y for line in panel.lines for y in line.y))
    if panel.y_limits is not None and not (panel.log_y and panel.y_limits[0] <= 0):
        ax.set_ylim(*panel.y_limits)
    if panel.zero_line and not panel.log_y:
        ax.axhline(0.0, color=COLORS["muted"], linewidth=0.8, zorder=1.5)


def _label_log_axis(axis: Axis, span: float) -> None:
    """Label whole powers of ten; where `span` holds too few of them, 2 and 5 times each too.

    Without lines there is no span, and Matplotlib's own choice stays.
    """
    from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, LogLocator, NullFormatter

    if span == 0:
        return
    if span > 1.5:
        axis.set_major_locator(LogLocator(numticks=7))
    else:
        power = LogFormatterSciNotation()
        power.create_dummy_axis()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(
            FuncFormatter(lambda v, _: f"{v:g}" if 1e-3 <= v < 1e5 else power(v))
        )
    axis.set_minor_formatter(NullFormatter())


def _draw_marks(panel: Panel, ax: Axes) -> None:
    from matplotlib.patheffects import withStroke

    style: dict[str, Any] = {
        "color": COLORS["muted"],
        "linewidth": 0.8,
        "linestyle": (0, (3, 2)),
        "zorder": 1.5,
    }
    note: dict[str, Any] = {
        "textcoords": "offset points",
        "fontsize": 7,
        "color": COLORS["muted"],
        "path_effects": [withStroke(linewidth=2, foreground="white")],
        "in_layout": False,
    }
    for mark in placed_marks(panel):
        label = _text(mark.label, 40)
        if mark.axis == "x":
            ax.axvline(mark.at, **style)
            note |= {"xycoords": ax.get_xaxis_transform(), "xytext": (3, -2)}
            ax.annotate(label, (mark.at, 1), ha="left", va="top", **note)
        else:
            ax.axhline(mark.at, **style)
            note |= {"xycoords": ax.get_yaxis_transform(), "xytext": (-2, 2)}
            ax.annotate(label, (1, mark.at), ha="right", va="bottom", **note)


def _handles(entries: Sequence[LegendEntry], longest: int = 60) -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=COLORS[entry.color], label=_text(entry.label, longest))
        if entry.style == "fill"
        else Line2D(
            [],
            [],
            color=COLORS[entry.color],
            linestyle=DASHES[entry.style],
            marker="o" if entry.style == "points" else "",
            markersize=3.6,
            label=_text(entry.label, longest),
        )
        for entry in entries
    ]


def _text(text: str, longest: int = 60) -> str:
    """`text` as Matplotlib shows it literally: no mathematics, no label hidden by an underscore."""
    literal = shortened(printable(text), longest).replace("$", r"\$")
    return f"\u200b{literal}" if literal.startswith("_") else literal

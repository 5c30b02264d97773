"""Charts for the page: Plotly specifications, one per panel, as JSON-ready dictionaries.

A colour is a token such as "--series-0", which the page replaces by the colour of the reader's
light or dark appearance. Every string of the outcome is escaped here, because Plotly reads a part
of HTML in its texts.
"""

import html
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from keelback.errors import printable
from keelback.outcome import Bars, Figure, Heatmap, Histogram, Line, Mark, Panel
from keelback.report._geometry import (
    band_segments,
    bar_places,
    category_labels,
    color_range,
    color_scale,
    drawable,
    has_markers,
    is_categorical,
    placed_marks,
    runs_down,
    shortened,
    stands_sideways,
    whiskers,
)
from keelback.report._palette import LIGHT, family, family_colors, repeated

Spec = dict[str, Any]
DASHES = {"solid": "solid", "dashed": "7px,4px", "dotted": "2px,3px", "points": "solid"}
DASHES_AGAIN = DASHES | {"solid": "9px,3px,3px,3px"}
"""The dashes of a line whose colour another one has."""
NAME = "<extra>%{fullData.name}</extra>"


def charts(figure: Figure) -> list[Spec]:
    """One `{"data", "layout"}` per panel of `figure`, in order."""
    return [
        _chart(panel, colors)
        for panel, colors in zip(figure.panels, family_colors(figure), strict=True)
    ]


def legend_key(color: str, style: str, label: str) -> str:
    """What ties a legend entry to its traces, made of characters that are safe everywhere."""
    return f"{color}-{style}-{label.encode().hex()}"


def _chart(panel: Panel, colors: Mapping[str, str]) -> Spec:
    if panel.heatmap is not None:
        return {"data": [_heatmap(panel.heatmap)], "layout": _heatmap_layout(panel, panel.heatmap)}
    again = repeated(colors)
    data = [_histogram(item, panel, colors[family(item)]) for item in panel.histograms]
    data += [_bars(item, panel, colors[family(item)], family(item) in again) for item in panel.bars]
    for line in panel.lines:
        dashes = DASHES_AGAIN if family(line) in again else DASHES
        data += _line(
            line, panel, colors[family(line)], dashes[line.style], crowd=len(panel.lines) > 8
        )
    return {"data": data, "layout": _layout(panel)}


def _line(line: Line, panel: Panel, color: str, dash: str, crowd: bool) -> list[Spec]:
    shared = _shared(line.label, color, line.style)
    trace = shared | {
        "type": "scatter",
        "mode": "lines" if line.style != "points" else "markers",
        "x": _numbers(line.x, panel.log_x),
        "y": _numbers(line.y, panel.log_y),
        "line": {"color": f"--{color}", "width": 1.4 if crowd else 2, "dash": dash},
        "marker": {"color": f"--{color}", "size": 7 if line.style == "points" else 5},
        "hovertemplate": "%{y:.4~g}" + NAME,
    }
    if line.style != "points" and has_markers(line):
        trace["mode"] = "lines+markers"
    if line.lower is None or line.upper is None:
        return [trace]
    trace["customdata"] = list(
        map(list, zip(*map(_numbers, (line.lower, line.upper)), strict=True))
    )
    trace["hovertemplate"] = "%{y:.4~g} [%{customdata[0]:.4~g}, %{customdata[1]:.4~g}]" + NAME
    if line.style == "points":
        trace["error_y"] = _error_bars(line, f"--{color}")
        return [trace]
    xs: list[float | None] = []
    ys: list[float | None] = []
    for segment in band_segments(line, panel):
        xs += [x for x, _, _ in segment] + [x for x, _, _ in reversed(segment)] + [None]
        ys += [high for _, _, high in segment] + [low for _, low, _ in reversed(segment)] + [None]
    filled = shared | {
        "type": "scatter",
        "mode": "lines",
        "x": _numbers(xs),
        "y": _numbers(ys),
        "fill": "toself",
        "fillcolor": f"--{color}-band",
        "line": {"color": f"--{color}", "width": 0},
        "hoverinfo": "skip",
    }
    return [filled, trace]


def _histogram(histogram: Histogram, panel: Panel, color: str) -> Spec:
    edges, counts = _numbers(histogram.edges), _numbers(histogram.counts)
    spans = [[a, b] for a, b in itertools.pairwise(edges)]
    return _shared(histogram.label, color, "fill") | {
        "type": "scatter",
        "mode": "lines",
        "x": [edges[0], *edges],
        "y": drawable([0.0, *counts, 0.0], panel.log_y),
        "customdata": [spans[0], *spans, spans[-1]],
        "line": {"shape": "hv", "color": f"--{color}", "width": 1.5},
        "fill": "tozeroy",
        "fillcolor": f"--{color}-band",
        "hovertemplate": "%{y} from %{customdata[0]:.3~g} to %{customdata[1]:.3~g}" + NAME,
    }


def _bars(bars: Bars, panel: Panel, color: str, again: bool) -> Spec:
    everywhere = bar_places(panel)
    sideways = stands_sideways(panel)
    labels = category_labels(everywhere, 40 if sideways else 24)
    names = dict(zip(everywhere, labels, strict=True))
    along, up = ("y", "x") if sideways else ("x", "y")
    trace = _shared(bars.label, color, "fill") | {
        "type": "bar",
        along: [_escape(names[x]) for x in bars.x] if is_categorical(everywhere) else list(bars.x),
        up: _numbers(bars.y, panel.log_y),
        "marker": {"color": f"--{color}"},
        "hovertemplate": f"%{{{up}:.4~g}}" + NAME,
    }
    if sideways:
        trace["orientation"] = "h"
    if again:
        trace["marker"]["pattern"] = {"shape": "/", "fgcolor": "--paper"}
    if bars.lower is not None and bars.upper is not None:
        trace[f"error_{up}"] = _error_bars(bars, "--ink")
    return trace


def _error_bars(item: Line | Bars, color: str) -> Spec:
    return {
        "type": "data",
        "symmetric": False,
        "array": whiskers(item.y, item.upper),
        "arrayminus": whiskers(item.y, item.lower),
        "color": color,
        "thickness": 1,
        "width": 0,
    }


def _heatmap(heatmap: Heatmap) -> Spec:
    low, high = color_range(heatmap)
    tokens = list(color_scale(heatmap, LIGHT))
    last = len(tokens) - 1
    return {
        "type": "heatmap",
        "x": _places(heatmap.x),
        "y": _places(heatmap.y),
        "z": [_numbers(row, digits=4) for row in heatmap.values],
        "zmin": low,
        "zmax": high,
        "colorscale": [[i / last, f"--{token}"] for i, token in enumerate(tokens)],
        "colorbar": {"thickness": 10, "outlinewidth": 0, "ticks": "", "len": 1, "xpad": 6},
        "name": _escape(heatmap.label, 40),
        "hoverlabel": {"namelength": -1},
        "hoverongaps": False,
        "hovertemplate": "%{x}, %{y}<br>%{z:.4~g}" + NAME,
    }


def _heatmap_layout(panel: Panel, heatmap: Heatmap) -> Spec:
    layout = _layout(panel)
    layout["hovermode"] = "closest"
    layout["plot_bgcolor"] = "--missing"
    for name, values in (("xaxis", heatmap.x), ("yaxis", heatmap.y)):
        layout[name] |= {"showgrid": False, "zeroline": False}
        if is_categorical(values):
            layout[name]["type"] = "category"
    if runs_down(heatmap):
        layout["yaxis"]["autorange"] = "reversed"
    return layout


def _layout(panel: Panel) -> Spec:
    sideways = stands_sideways(panel)
    x_type = "category" if is_categorical(bar_places(panel)) else "log" if panel.log_x else "linear"
    xs = [*(x for line in panel.lines for x in line.x)]
    xs += [edge for histogram in panel.histograms for edge in histogram.edges]
    along = _axis(x_type, "width" if sideways else "height") | {"showgrid": not panel.bars}
    along |= _log_ticks(xs, log=True) if panel.log_x else _whole_ticks(xs)
    up = _axis("log" if panel.log_y else "linear", "height" if sideways else "width")
    up |= _y_range(panel)
    if sideways:
        along |= {"autorange": "reversed"}
    level, upright = (up, along) if sideways else (along, up)
    if not sideways:
        level["title"] = {"text": _escape(panel.x_label), "standoff": 8}
    marks = placed_marks(panel)
    beside = [mark for mark in marks if (mark.axis == "y") != sideways and mark.label]
    above = [mark for mark in marks if (mark.axis == "x") != sideways and mark.label]
    return {
        "xaxis": level,
        "yaxis": upright,
        "hovermode": "x unified" if len(panel.lines) <= 8 and not panel.histograms else "closest",
        "shapes": [_mark_line("xy"[stands], mark.at) for mark, stands in _standing(panel)],
        "annotations": [
            *(_text_above(mark, panel, row) for row, mark in enumerate(above)),
            *(_text_beside(mark, panel) for mark in beside),
        ],
        "margin": {
            "l": 8,
            "r": 76 if beside else 12,
            "t": 8 + 15 * len(above),
            "b": 8,
        },
        "bargap": 0.2,
    }


def _standing(panel: Panel) -> list[tuple[Mark, int]]:
    """The marks, each with 0 where its line stands on the page and 1 where it lies."""
    sideways = stands_sideways(panel)
    return [(mark, int((mark.axis == "y") != sideways)) for mark in placed_marks(panel)]


def _axis(kind: str, automargin: str) -> Spec:
    return {
        "type": kind,
        "automargin": automargin,
        "ticklabelstandoff": 4,
        "color": "--muted",
        "gridcolor": "--rule",
        "zeroline": False,
        "exponentformat": "power",
        "minexponent": 4,
        "hoverformat": ".6~g" if kind != "category" else "",
    }


def _y_range(panel: Panel) -> Spec:
    ys = [y for line in panel.lines for y in line.y]
    ys += [y for bars in panel.bars for y in bars.y]
    ys += [count for histogram in panel.histograms for count in histogram.counts]
    marked = [mark.at for mark in placed_marks(panel) if mark.axis == "y"]
    axis = _log_ticks([*ys, *marked], panel.log_y)
    if panel.zero_line:
        axis |= {"zeroline": True, "zerolinecolor": "--muted", "zerolinewidth": 1}
    if panel.y_limits is not None and not (panel.log_y and panel.y_limits[0] <= 0):
        axis["range"] = [math.log10(v) if panel.log_y else v for v in panel.y_limits]
    return axis


def _log_ticks(values: Sequence[float | None], log: bool) -> Spec:
    """Ticks at powers of ten or, where `values` span too few, at 1, 2 and 5 times each."""
    placed = [v for v in drawable(values, log=True) if v is not None]
    if not log or not placed:
        return {}
    low, high = min(placed), max(placed)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [10.0**k for k in range(first, last + 1, max(math.ceil((last - first) / 7), 1))]
    if sum(low <= tick <= high for tick in ticks) < 3:
        factors = (1, 2, 5) if high / low > 4 else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
        ticks = [
            tick
            for k in range(first, last + 1)
            for factor in factors
            if low / 1.5 <= (tick := factor * 10.0**k) <= high * 1.5
        ]
    plain = low >= 1e-4 and high < 1e6
    return {"tickvals": ticks, "ticktext": [_plainly(v) if plain else _power(v) for v in ticks]}


def _plainly(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 and value == round(value) else f"{value:.6g}"


def _power(value: float) -> str:
    power = math.floor(math.log10(value) + 1e-9)
    factor = f"{value / 10.0**power:.2g}"
    text = f"10<sup>{power}</sup>".replace("-", "−")
    return text if factor == "1" else f"{factor} × {text}"


def _whole_ticks(values: Sequence[float]) -> Spec:
    """Ticks at whole numbers where `values` are few whole numbers, such as layers."""
    whole = values and all(float(v).is_integer() for v in values)
    return {"dtick": 1} if whole and max(values) - min(values) <= 8 else {}


def _mark_line(axis: str, at: float) -> Spec:
    across, along = ("y", "x") if axis == "x" else ("x", "y")
    return {
        "type": "line",
        f"{along}ref": along,
        f"{across}ref": f"{across} domain",
        f"{along}0": at,
        f"{along}1": at,
        f"{across}0": 0,
        f"{across}1": 1,
        "line": {"color": "--muted", "width": 1, "dash": "4px,3px"},
        "layer": "below",
    }


def _text_above(mark: Mark, panel: Panel, row: int) -> Spec:
    """The label of a line that stands, above the chart, in a row of its own: marks may be close."""
    return _mark_text(_escape(mark.label, 40)) | {
        "xref": "x",
        "yref": "y domain",
        "x": _place(mark, panel),
        "y": 1,
        "xanchor": "auto",
        "yanchor": "bottom",
        "yshift": 15 * row,
    }


def _text_beside(mark: Mark, panel: Panel) -> Spec:
    """The label of a line that lies, in lines of its own right of the chart."""
    lines = textwrap.wrap(shortened(printable(mark.label), 40), 12) or [""]
    return _mark_text("<br>".join(html.escape(line, quote=False) for line in lines)) | {
        "xref": "x domain",
        "yref": "y",
        "x": 1,
        "y": _place(mark, panel),
        "xanchor": "left",
        "yanchor": "middle",
        "align": "left",
    }


def _mark_text(text: str) -> Spec:
    return {"text": text, "showarrow": False, "font": {"size": 11, "color": "--muted"}}


def _place(mark: Mark, panel: Panel) -> float:
    log = panel.log_x if mark.axis == "x" else panel.log_y
    return math.log10(mark.at) if log else mark.at


def _shared(label: str, color: str, style: str) -> Spec:
    return {
        "name": _escape(label, 40),
        "meta": legend_key(color, style, label),
        "showlegend": False,
        "hoverlabel": {"namelength": -1},
    }


def _places(values: Sequence[float | str]) -> list[Any]:
    return [*map(_escape, category_labels(values))] if is_categorical(values) else list(values)


def _numbers(
    values: Sequence[float | None], log: bool = False, digits: int = 7
) -> list[float | None]:
    """Whole numbers as they are, others to `digits` significant ones, `None` if not drawable."""
    return [
        int(v)
        if v is not None and v.is_integer() and abs(v) < 1e15
        else v and float(f"{v:.{digits}g}")
        for v in drawable(values, log)
    ]


def _escape(text: str, longest: int = 80) -> str:
    return html.escape(shortened(printable(text), longest), quote=False)

"""Charts for the page: Plotly specifications, one a panel, as JSON-ready dictionaries.

A colour is a token such as "--series-0", which the page replaces by the colour of the reader's
light or dark appearance. Every string of the outcome is escaped here, because Plotly reads a part
of HTML in its texts.
"""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from keelback.errors import printable
from keelback.outcome import Bars, Figure, Heatmap, Histogram, Line, Panel
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
    whiskers,
)
from keelback.report._palette import LIGHT, family, family_colors

Spec = dict[str, Any]
DASHES = {"solid": "solid", "dashed": "7px,4px", "dotted": "2px,3px", "points": "solid"}
NAME = "<extra>%{fullData.name}</extra>"


def charts(figure: Figure) -> list[Spec]:
    """One `{"data", "layout"}` a panel of `figure`, in order."""
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
    data = [_histogram(item, panel, colors[family(item)]) for item in panel.histograms]
    data += [_bars(item, panel, colors[family(item)]) for item in panel.bars]
    for line in panel.lines:
        data += _line(line, panel, colors[family(line)], crowd=len(panel.lines) > 8)
    return {"data": data, "layout": _layout(panel)}


def _line(line: Line, panel: Panel, color: str, crowd: bool) -> list[Spec]:
    shared = _shared(line.label, color, line.style)
    trace = shared | {
        "type": "scatter",
        "mode": "lines" if line.style != "points" else "markers",
        "x": _numbers(line.x, panel.log_x),
        "y": _numbers(line.y, panel.log_y),
        "line": {"color": f"--{color}", "width": 1.4 if crowd else 2, "dash": DASHES[line.style]},
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


def _bars(bars: Bars, panel: Panel, color: str) -> Spec:
    everywhere = bar_places(panel)
    names = dict(zip(everywhere, category_labels(everywhere), strict=True))
    trace = _shared(bars.label, color, "fill") | {
        "type": "bar",
        "x": [_escape(names[x]) for x in bars.x] if is_categorical(everywhere) else list(bars.x),
        "y": _numbers(bars.y, panel.log_y),
        "marker": {"color": f"--{color}"},
        "hovertemplate": "%{y:.4~g}" + NAME,
    }
    if bars.lower is not None and bars.upper is not None:
        trace["error_y"] = _error_bars(bars, "--ink")
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
    x_type = "category" if is_categorical(bar_places(panel)) else "log" if panel.log_x else "linear"
    title = {"text": _escape(panel.x_label), "standoff": 8}
    xs = [*(x for line in panel.lines for x in line.x)]
    xs += [edge for histogram in panel.histograms for edge in histogram.edges]
    return {
        "xaxis": _axis(x_type, "height")
        | {"title": title, "showgrid": not panel.bars}
        | (_log_ticks(xs, log=True) if panel.log_x else _whole_ticks(xs)),
        "yaxis": _axis("log" if panel.log_y else "linear", "width") | _y_range(panel),
        "hovermode": "x unified" if len(panel.lines) <= 8 and not panel.histograms else "closest",
        "shapes": [_mark_line(mark.axis, mark.at) for mark in placed_marks(panel)],
        "annotations": [
            _mark_text(mark.axis, mark.at, mark.label, panel, row)
            for row, mark in enumerate(m for m in placed_marks(panel) if m.label)
        ],
        "bargap": 0.2,
    }


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
    marked = [mark.at for mark in placed_marks(panel) if mark.axis == "y"]
    axis = _log_ticks([*ys, *marked], panel.log_y)
    if panel.zero_line:
        axis |= {"zeroline": True, "zerolinecolor": "--muted", "zerolinewidth": 1}
    if panel.y_limits is not None and not (panel.log_y and panel.y_limits[0] <= 0):
        axis["range"] = [math.log10(v) if panel.log_y else v for v in panel.y_limits]
    return axis


def _log_ticks(values: Sequence[float | None], log: bool) -> Spec:
    """Ticks at whole powers of ten where `values` span more than one and a half of them."""
    exponents = [math.log10(v) for v in drawable(values, log=True) if v is not None]
    if not log or not exponents or max(exponents) - min(exponents) < 1.5:
        return {}
    first, last = math.floor(min(exponents)), math.ceil(max(exponents))
    powers = range(first, last + 1, math.ceil((last - first) / 7))
    plain = first >= -3 and last <= 4
    text = [f"{10.0**k:g}" if plain else f"10<sup>{k}</sup>".replace("-", "−") for k in powers]
    return {"tickvals": [10.0**k for k in powers], "ticktext": text}


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


def _mark_text(axis: str, at: float, label: str, panel: Panel, row: int) -> Spec:
    """The label of a mark; beside a vertical one in a row of its own, for marks may be close."""
    log = panel.log_x if axis == "x" else panel.log_y
    place = math.log10(at) if log else at
    upright = axis == "x"
    return {
        "text": _escape(label, 40),
        "showarrow": False,
        "font": {"size": 11, "color": "--muted"},
        "bgcolor": "--paper",
        "opacity": 0.9,
        "xref": "x" if upright else "x domain",
        "yref": "y domain" if upright else "y",
        "x": place if upright else 1,
        "y": 1 if upright else place,
        "xanchor": "left" if upright else "right",
        "yanchor": "top" if upright else "bottom",
        "yshift": -14 * row if upright else 0,
    }


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

"""Outcomes that use everything, and strings that attack everything."""

import math

from keelback.outcome import (
    Bars,
    Claim,
    Column,
    Figure,
    Heatmap,
    Histogram,
    Line,
    Mark,
    Outcome,
    Panel,
    Table,
)

HOSTILE = (
    '</script><script>window.pwned=1</script><img src=x onerror="window.pwned=1">\'"&<!--<b>'
    'b</b><a href="javascript:window.pwned=1">a</a>\u2028\u2029\u202e\x1b[31m\x00 `${1}` {{7*7}} '
    "$\\frac$ %{x} _under"
)
PROVENANCE = {
    "command": "keelback reproduce x",
    "versions": {"keelback": "0.1.0", "torch": "2.13.0"},
    "device": "CPU",
    "date": "2026-01-02",
}


def make_outcome(text: str = "plain", experiment: str = "sample") -> Outcome:
    """An outcome with every kind of panel, in which every string holds `text`."""
    nan, inf = math.nan, math.inf
    lines = [
        Line(
            [1, 2, 3, 4], [0.0, nan, 1e30, inf], f"{text} solid", [0, 0, 1, 1], [1, None, 1e31, 1]
        ),
        Line([1, 2, 3], [1, 2, 3], f"{text} dashed", style="dashed", family=text),
        Line([1, 2, 3], [3, 2, 1], f"{text} dotted", style="dotted", family=text),
        Line([1, 2], [3, 2], f"{text} points", [2, 1], [4, 4], style="points"),
        Line([5], [1]),
    ]
    tokens = [text, text, "\n"]
    map_ = Heatmap(tokens, tokens, [[1, None, nan], [2, 3, inf], [4, 5, 6]], text)
    signed = Heatmap([1, 10, 100], [0.5, 1.5], [[-1, 0, 2], [1, 1, 1]], "margin", from_top=True)
    panels = [
        Panel(text, text, text, lines, zero_line=True, marks=[Mark(2, text), Mark(1, text, "y")]),
        Panel(
            text,
            text,
            text,
            lines,
            log_x=True,
            log_y=True,
            zero_line=True,
            y_limits=(0, 10),
            marks=[Mark(2, text), Mark(0, text), Mark(nan, text, "y")],
        ),
        Panel(text, text, text, heatmap=map_),
        Panel("T", "s_A", heatmap=signed, log_x=True),
        Panel("x", "n", histograms=[Histogram([0, 1, 2], [3, 0], text)], log_y=True),
        Panel("layer", "horizon", bars=[Bars([text, "b"], [1, None], text, [0.5, 1], [2, 3])]),
        Panel("layer", "horizon", bars=[Bars([0, 1], [1, 2], "a"), Bars([0, 1], [2, 1], "b")]),
        Panel("empty", "empty"),
    ]
    rows = [
        {"name": text, "n": 3, "value": -0.25, "ok": True},
        {"name": "b", "n": 1, "value": None, "ok": False},
        {"name": "a", "n": 20, "value": inf, "ok": None},
    ]
    columns = [
        Column("name", text),
        Column("n", "n"),
        Column("value", "v", ".3f"),
        Column("ok", "ok"),
    ]
    return Outcome(
        experiment,
        text,
        text,
        claims=[Claim(text, text, text, holds) for holds in (True, False, None)],
        figures=[Figure("all kinds", text, panels, text), Figure("one", text, panels[:1], text)],
        tables=[Table("rows", text, columns, rows, text)],
        notes=[text],
        verdict=text,
    )

"""The HTML page: one file, no requests, every string escaped."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from keelback.errors import printable
from keelback.outcome import Claim, Figure, Heatmap, Outcome, Panel, Table
from keelback.report._files import distinct_stems, require_report_extra
from keelback.report._geometry import LegendEntry, legends
from keelback.report._palette import DARK, LIGHT, Theme, items
from keelback.report._plotly import charts, legend_key
from keelback.report._tables import format_cell, is_numeric

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

Provenance = Mapping[str, str | Mapping[str, str]]
PAGE_ROWS = 500
"""A longer table shows this many rows on the page; its files hold all."""
PLOTLY = "plotly-cartesian.min.js.gz"
_BAND_OPACITY = 0.17
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]{0,28}(?![\w-])")


@dataclass(frozen=True)
class _PanelView:
    title: str
    y_label: str
    chart: int
    described: str
    heatmap: Heatmap | None
    legend: list[tuple[str, LegendEntry]]


@dataclass(frozen=True)
class _Cell:
    text: str
    sort_by: str


def render_page(outcomes: Sequence[Outcome], provenance: Provenance) -> str:
    """The report on `outcomes` as one HTML document that needs no other file and no network.

    `provenance` says where the numbers come from: command, versions, device, date, each a string
    or a mapping of strings. plotly.js is part of the page, once and compressed: its bundle for
    charts with two axes (plotly.js-cartesian-dist-min 4.1.1 of npm, unchanged), so that a page is
    about 0.7 MB. Scripts other than the page's two are refused by its content security policy.
    Raises `InputError` where the `report` extra is missing.

    Examples:
        >>> from keelback.outcome import Outcome
        >>> outcome = Outcome("mine", "Mine", "One training.")
        >>> page = render_page([outcome], {"command": "python mine.py"})
        >>> page.startswith("<!doctype html>")
        True
    """
    require_report_extra()
    from markupsafe import Markup

    environment = templates_of("keelback.report")
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    environment.filters |= {"prose": _prose, "grade": _grade}
    packed = resources.files("keelback.report").joinpath("page", PLOTLY).read_bytes()
    script = _resource("page.js")
    scripts = [gzip.decompress(packed).decode(), script]
    specs: list[dict[str, Any]] = []
    return environment.get_template("page.html").render(
        outcomes=outcomes,
        anchors=distinct_stems([outcome.experiment for outcome in outcomes]),
        figures=[[_panels(figure, specs) for figure in o.figures] for o in outcomes],
        bodies=[[_body(table) for table in outcome.tables] for outcome in outcomes],
        is_numeric=is_numeric,
        page_rows=PAGE_ROWS,
        provenance=provenance,
        specs=specs,
        css=Markup(_variables() + _resource("page.css")),
        plotly=base64.b64encode(packed).decode(),
        script=Markup(script),
        hashes=[Markup(_integrity(script)) for script in scripts],
    )


def templates_of(package: str) -> Environment:
    """The templates in a package's folder `page`: every string is escaped, and made printable."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package, "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )


def _panels(figure: Figure, specs: list[dict[str, Any]]) -> list[_PanelView]:
    first = len(specs)
    specs += charts(figure)
    return [
        _PanelView(
            panel.title,
            panel.y_label,
            first + i,
            _described(panel, figure),
            panel.heatmap,
            [(legend_key(e.color, e.style, e.label), e) for e in entries],
        )
        for i, (panel, entries) in enumerate(zip(figure.panels, legends(figure), strict=True))
    ]


def _described(panel: Panel, figure: Figure) -> str:
    """What a chart shows, in words, for those who do not see it."""
    name = ": ".join(part for part in (figure.title, panel.title) if part)
    if panel.heatmap is not None:
        return f"{name}. Map of {panel.heatmap.label} by {panel.x_label} and {panel.y_label}."
    shown = [item.label for item in items(panel) if item.label]
    shown += [mark.label for mark in panel.marks if mark.label]
    series = f" Shown: {', '.join(dict.fromkeys(shown))}." if shown else ""
    return f"{name}. {panel.y_label} against {panel.x_label}.{series}"


def _prose(text: str) -> Markup:
    """`text` escaped, in which the name of an option, such as --out, is not broken across lines."""
    from markupsafe import Markup, escape

    parts, end = [], 0
    for found in _OPTION.finditer(text := printable(text)):
        parts += [escape(text[end : found.start()]), Markup("<code>{}</code>").format(found[0])]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def _grade(claim: Claim) -> str:
    """The class of a claim's element: what its colour and its sign say."""
    if claim.holds is None:
        return "warns" if claim.verdict == "warning" else "open"
    return "holds" if claim.holds else "fails"


def _body(table: Table) -> list[list[_Cell]]:
    numeric = {column.key: is_numeric(table, column) for column in table.columns}
    return [
        [
            _Cell(
                format_cell(row.get(column.key), column.spec),
                repr(row[column.key])
                if numeric[column.key] and row.get(column.key) is not None
                else "",
            )
            for column in table.columns
        ]
        for row in table.rows[:PAGE_ROWS]
    ]


def _variables() -> str:
    return f":root{{{_css(LIGHT)}}}@media(prefers-color-scheme:dark){{:root{{{_css(DARK)}}}}}\n"


def _css(theme: Theme) -> str:
    colors = theme.colors()
    bands = {
        f"{name}-band": _faint(color)
        for name, color in colors.items()
        if "-" in name or name in {"muted", "warn"}
    }
    return "".join(f"--{name}:{color};" for name, color in (colors | bands).items())


def _faint(color: str) -> str:
    """A color `#rrggbb` that lets most of what lies behind show through."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return f"rgba({red},{green},{blue},{_BAND_OPACITY})"


def _resource(name: str) -> str:
    return resources.files("keelback.report").joinpath("page", name).read_text(encoding="utf-8")


def _integrity(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"

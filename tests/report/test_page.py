import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import HOSTILE, PROVENANCE, make_outcome

from keelback.outcome import (
    Bars,
    Claim,
    Column,
    Figure,
    Histogram,
    Line,
    Mark,
    Outcome,
    Panel,
    Table,
)
from keelback.report import render_page
from keelback.report._page import _faint, _resource
from keelback.report._palette import LIGHT
from keelback.report._plotly import charts


class Elements(HTMLParser):
    """The elements of a page with their attributes, the text in them, and the scripts."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text, self.scripts, self.in_script = [], [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.in_script = tag == "script"
        if self.in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        if self.in_script:
            self.scripts[-1] += data
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def plain():
    return Elements(render_page([make_outcome()], PROVENANCE))


def test_a_hostile_page_has_the_elements_of_a_plain_one(plain, hostile):
    attack = Elements(
        render_page([hostile], {**PROVENANCE, "device": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}})
    )
    names = [tag for tag, _ in attack.found if tag not in {"dt", "dd", "span", "b"}]
    assert names == [tag for tag, _ in plain.found if tag not in {"dt", "dd", "span", "b"}]
    attributes = {name for _, attrs in attack.found for name in attrs}
    assert attributes == {name for _, attrs in plain.found for name in attrs}
    assert any("<script>window.pwned=1</script>" in text for text in attack.text)


@settings(max_examples=20, deadline=None)
@given(st.text())
def test_any_text_leaves_three_scripts_and_readable_chart_data(text):
    page = Elements(render_page([make_outcome(text)], PROVENANCE))
    assert [attrs.get("type") for tag, attrs in page.found if tag == "script"] == [
        "application/json",
        "text/plain",
        None,
    ]
    assert "<" not in page.scripts[0]
    assert len(json.loads(page.scripts[0])) == 9


def test_scripts_are_those_that_the_policy_names_and_plotly_is_there_once(plain):
    policy = next(attrs["content"] for tag, attrs in plain.found if "http-equiv" in attrs)
    plotly = gzip.decompress(base64.b64decode(plain.scripts[1])).decode()
    assert plotly.startswith("/**\n* plotly.js (cartesian - minified) v")
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"
        for script in (plotly, plain.scripts[2])
    ]
    assert policy.startswith("default-src 'none'")
    assert policy.split("script-src ")[1].split(";")[0].split() == hashes


def test_a_page_is_small(outcome):
    table = Table("t", "", [Column("a", "a"), Column("b", "b")], [{"a": 1.5, "b": "x"}] * 500)
    lines = [Line(range(2000), [0.1] * 2000, f"line {i}") for i in range(6)]
    figure = Figure("f", "", [Panel("x", "y", lines=lines)])
    full = Outcome("e", "t", "s", tables=[table] * 4, figures=[figure] * 4)
    assert len(render_page([full, outcome], PROVENANCE).encode()) < 1_500_000


def test_the_four_grades_look_different():
    claims = [
        Claim("s", verdict, "e", holds)
        for verdict, holds in (
            ("good", True), ("note", None), ("warning", None), ("problem", False)
        )
    ]  # fmt: skip
    page = Elements(render_page([Outcome("e", "t", "s", claims=claims)], PROVENANCE))
    grades = [attrs["class"] for tag, attrs in page.found if tag == "li"]
    assert grades == ["holds", "open", "warns", "fails"]
    css = _resource("page.css")
    signs = [
        re.search(rf'\.{grade} \.finding::before{{content:"(.)"}}', css)[1] for grade in grades
    ]
    assert len(set(signs)) == 4


def test_an_option_stays_on_one_line_and_findings_are_called_so():
    claims = [Claim("Give --target-length <b> to go on -- at 4k.", "note", "a--b")]
    outcome = Outcome("e", "t", "s", claims=claims, claims_title="Findings")
    page = Elements(render_page([outcome], PROVENANCE))
    assert [tag for tag, _ in page.found].count(
        "code"
    ) == 2  # the option, and the command of the provenance
    assert "--target-length" in page.text
    assert "Findings" in page.text
    assert "Claims" not in page.text
    assert any("<b> to go on -- at 4k." in text for text in page.text)


def test_a_chart_is_described_in_words():
    panel = Panel(
        "length", "accuracy", "left", [Line([1, 2], [1, 2], "test")], marks=[Mark(1, "m")]
    )
    page = Elements(
        render_page([Outcome("e", "t", "s", figures=[Figure("f", "F", [panel])])], PROVENANCE)
    )
    labels = [attrs["aria-label"] for _, attrs in page.found if attrs.get("role") == "img"]
    assert labels == ["F: left. accuracy against length. Shown: test, m."]


def test_nothing_on_the_page_points_elsewhere(plain):
    for _, attributes in plain.found:
        for name in ("src", "href", "action", "srcset", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:,"))
    assert not re.search(r"url\(|@import", "".join(plain.text))


def test_reading_order_is_verdict_claims_figures_tables_notes_provenance():
    outcome = make_outcome("plain")
    text = " ".join(Elements(render_page([outcome], PROVENANCE)).text)
    places = [text.index(word) for word in ("Claims", "Figures", "Tables", "Notes", "Provenance")]
    assert places == sorted(places)


def test_a_long_table_is_cut_on_the_page_and_says_so(outcome):
    table = outcome.tables[0]
    long = type(table)("long", "", table.columns, list(table.rows) * 200)
    page = Elements(render_page([type(outcome)("e", "t", "s", tables=[long])], PROVENANCE))
    assert sum(tag == "tr" for tag, _ in page.found) == 501
    assert any("first 500 of 600 rows" in text for text in page.text)


def resolved(node, key=""):
    """A chart's specification with tokens replaced, as the page's script does it."""
    if isinstance(node, dict):
        return {k: resolved(v, k) for k, v in node.items()}
    if isinstance(node, list):
        return [resolved(v, key) for v in node]
    if isinstance(node, str) and node.startswith("--") and re.search("color(scale)?$", key):
        name = node.removeprefix("--")
        color = LIGHT.colors()[name.removesuffix("-band")]
        return _faint(color) if name.endswith("-band") else color
    return node


@pytest.mark.parametrize("kind", ["plain", "hostile"])
def test_charts_are_valid_plotly(kind, outcome, hostile):
    for figure in (outcome if kind == "plain" else hostile).figures:
        for chart in charts(figure):
            drawn = go.Figure(resolved(chart))
            assert "<script" not in drawn.to_json().replace("\\u003c", "<")


def test_chart_values_are_those_of_the_panel(outcome):
    chart = charts(outcome.figures[0])[0]
    band, solid = chart["data"][:2]
    assert solid["y"] == [0, None, 1e30, None]
    assert solid["customdata"] == [[0, 1], [0, None], [1, 1e31], [1, 1]]
    assert band["x"] == [1, 1, None, 3, 4, 4, 3, None]
    log = charts(outcome.figures[0])[1]
    assert log["data"][1]["y"] == [None, None, 1e30, None]
    assert [mark["x"] for mark in log["layout"]["annotations"]] == [pytest.approx(0.30103)]
    assert charts(outcome.figures[0])[2]["data"][0]["z"][1] == [2, 3, None]


@pytest.mark.parametrize("numbers", [(37, 3000), (2, 9), (0.1, 0.7), (1e-9, 1e4), (100, 110)])
@pytest.mark.parametrize("kind", ["line", "bars", "histogram"])
def test_the_ticks_of_a_log_axis_are_in_one_style(numbers, kind):
    panel = {
        "line": Panel("x", "y", lines=[Line([1, 2], numbers)], log_y=True),
        "bars": Panel("x", "y", bars=[Bars([1, 2], numbers)], log_y=True),
        "histogram": Panel("x", "y", histograms=[Histogram([0, 1, 2], numbers)], log_y=True),
    }[kind]
    axis = charts(Figure("f", "", [panel]))[0]["layout"]["yaxis"]
    assert len(axis["tickvals"]) == len(set(axis["ticktext"])) >= 2
    assert len({"<sup>" in text for text in axis["ticktext"]}) == 1


def test_long_names_of_bars_lie_beside_them_whole():
    names = ["gated SSM", "gate frozen", "W_B and W_C trained", "gated linear attention"]
    panel = Panel("gate", "share", bars=[Bars(names, [1, 2, 3, 4], "a", [0] * 4, [5] * 4)])
    trace = charts(Figure("f", "", [panel]))[0]["data"][0]
    assert trace["orientation"] == "h"
    assert trace["y"] == names
    assert "error_x" in trace


def test_labels_of_marks_lie_beside_and_above_the_chart():
    marks = [Mark(0.5, "majority class", "y"), Mark(2, "training length"), Mark(2.1, "degrades")]
    panel = Panel("x", "y", lines=[Line([1, 3], [0, 1])], marks=marks)
    layout = charts(Figure("f", "", [panel]))[0]["layout"]
    above, again, beside = layout["annotations"]
    assert (beside["x"], beside["xanchor"], beside["text"]) == (1, "left", "majority<br>class")
    assert (above["y"], above["yanchor"]) == (1, "bottom")
    assert above["yshift"] < again["yshift"]
    assert layout["margin"]["r"] > 60
    assert layout["margin"]["t"] >= 2 * 15

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import HOSTILE, PROVENANCE, make_outcome

from keelback.report import render_page
from keelback.report._page import _faint
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
        None,
        None,
    ]
    assert "<" not in page.scripts[0]
    assert len(json.loads(page.scripts[0])) == 9


def test_scripts_are_those_that_the_policy_names_and_plotly_is_there_once(plain):
    policy = next(attrs["content"] for tag, attrs in plain.found if "http-equiv" in attrs)
    for script in plain.scripts[1:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert [script.startswith("/**\n* plotly.js v") for script in plain.scripts] == [
        False,
        True,
        False,
    ]


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

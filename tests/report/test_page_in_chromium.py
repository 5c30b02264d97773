"""The page in a real browser: silent, self-contained, and it answers."""

import time

import pytest
from headless_chromium import EXECUTABLE, Page
from report_samples import HOSTILE, PROVENANCE, make_outcome

from keelback.outcome import Claim, Column, Outcome, Table
from keelback.report import render_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    provenance = {**PROVENANCE, "device": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    path.write_text(render_page([make_outcome(), make_outcome(HOSTILE)], provenance))
    return path


def show(browser, report, **how):
    browser.logged.clear()
    browser.requested.clear()
    browser.open(report, **how)
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    charts = "document.querySelectorAll('.chart')"
    browser.wait_for(f"[...{charts}].every((chart) => chart.querySelector('.main-svg'))")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280], ids=["phone", "tablet", "desktop"])
def test_page_is_silent_self_contained_and_fits(browser, report, width, dark):
    show(browser, report, width=width, dark=dark)
    assert browser.evaluate("typeof window.pwned") == "undefined"
    assert browser.evaluate("document.querySelectorAll('.chart a, img').length") == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.logged == []
    elsewhere = {url for url in browser.requested if not url.startswith("data:")}
    assert elsewhere == {report.as_uri()}
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")


def test_charts_answer_to_hovering(browser, report):
    show(browser, report, width=1280)
    for chart, seen in ((1, "plain dashed"), (2, "plain"), (10, "window.pwned=1")):
        box = browser.evaluate(
            f"""(() => {{
                const area = document.querySelectorAll('.chart')[{chart}];
                area.scrollIntoView({{block: 'center', behavior: 'instant'}});
                const box = area.querySelector('.nsewdrag').getBoundingClientRect();
                return [box.x, box.y, box.width, box.height];
            }})()"""
        )
        time.sleep(0.1)
        hover = (
            f"document.querySelectorAll('.chart')[{chart}].querySelector('.hoverlayer').textContent"
        )
        for step in range(40):
            x, y = box[0] + box[2] * (0.05 + step * 0.02), box[1] + box[3] * 0.85
            browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
            time.sleep(0.06)
            if seen in browser.evaluate(hover):
                break
        assert seen in browser.evaluate(hover)
    assert browser.evaluate("typeof window.pwned") == "undefined"
    assert browser.logged == []


def test_a_legend_entry_hides_its_lines_in_every_panel(browser, report):
    show(browser, report, width=1280)
    shown = """[...document.querySelector('figure').querySelectorAll('.chart')].map(
        (chart) => chart.data.filter((trace) => trace.visible !== false).length)"""
    before = browser.evaluate(shown)
    browser.evaluate("document.querySelector('.legend button').click()")
    after = browser.evaluate(shown)
    assert after[0] == before[0] - 2  # the line and its band
    browser.evaluate("document.querySelector('.legend button').click()")
    assert browser.evaluate(shown) == before


def test_a_click_on_a_heading_sorts_numbers_as_numbers(browser, report):
    show(browser, report, width=1280)

    def click_and_read(column):
        browser.evaluate(f"document.querySelectorAll('th button')[{column}].click()")
        return browser.evaluate(
            "[...document.querySelector('tbody').rows]"
            f".map((row) => row.cells[{column}].textContent)"
        )

    assert click_and_read(1) == ["1", "3", "20"]
    assert click_and_read(1) == ["20", "3", "1"]
    assert click_and_read(2) == ["−0.250", "∞", "–"]
    assert click_and_read(2) == ["∞", "−0.250", "–"]
    assert click_and_read(0) == ["a", "b", "plain"]


def test_colours_follow_the_appearance_without_a_reload(browser, report):
    show(browser, report, width=1280)
    line = "getComputedStyle(document.querySelector('.chart .js-line')).stroke"
    light = browser.evaluate(line)
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.call("Emulation.setEmulatedMedia", features=[dark])
    browser.wait_for(f"{line} !== '{light}'")


@pytest.fixture(scope="module")
def wide_table(tmp_path_factory):
    columns = [Column(f"c{i}", f"column number {i}", ".3g") for i in range(13)]
    rows = [{f"c{i}": i * 1.25 for i in range(13)}] * 30
    claims = [
        Claim("One may go on.", verdict, "e", holds)
        for verdict, holds in (
            ("good", True),
            ("warning", None),
            ("problem", False),
            ("note", None),
        )
    ]
    tables = [Table("t", "Wide", columns, rows), Table("n", "Narrow", columns[:1], rows[:2])]
    path = tmp_path_factory.mktemp("table") / "report.html"
    path.write_text(render_page([Outcome("e", "t", "s", claims, tables=tables)], PROVENANCE))
    return path


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_a_cut_table_says_that_it_scrolls(browser, wide_table, width):
    show(browser, wide_table, width=width)
    hints = "[...document.querySelectorAll('.hint')]"
    browser.wait_for(f"{hints}.some((hint) => !hint.hidden)")
    assert browser.evaluate(f"{hints}.map((hint) => hint.hidden)") == [False, True]
    assert "columns" in browser.evaluate(f"{hints}[0].textContent")
    browser.evaluate("document.querySelector('.scroll').scrollTo(1e6, 1e6)")
    browser.wait_for(f"getComputedStyle({hints}[0]).visibility === 'hidden'")
    assert browser.logged == []


def test_the_grades_of_findings_differ_in_more_than_hue(browser, wide_table):
    show(browser, wide_table, width=1280)
    looks = browser.evaluate(
        """[...document.querySelectorAll('.finding')].map((finding) => {
            const style = getComputedStyle(finding);
            const sign = getComputedStyle(finding, '::before').content;
            return [sign, style.backgroundColor !== 'rgba(0, 0, 0, 0)', style.borderColor].join();
        })"""
    )
    assert len(set(looks)) == 4


def test_all_that_answers_is_reached_by_the_keyboard(browser, report):
    show(browser, report, width=1280)
    browser.evaluate("document.querySelector('.legend button').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", text=" ")
    pressed = "document.querySelector('.legend button').getAttribute('aria-pressed')"
    assert browser.evaluate(pressed) == "false"
    unnamed = """[...document.querySelectorAll('button, [tabindex], [role=img]')].filter(
        (own) => !(own.textContent.trim() || own.getAttribute('aria-label'))).length"""
    assert browser.evaluate(unnamed) == 0

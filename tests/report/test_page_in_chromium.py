"""The page in a real browser: silent, self-contained, and it answers."""

import time

import pytest
from headless_chromium import EXECUTABLE, Page
from report_samples import HOSTILE, PROVENANCE, make_outcome

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
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
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

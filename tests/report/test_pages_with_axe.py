"""axe-core finds nothing serious on the pages: names of controls, contrast, roles, headings.

Its script comes with the package axe-core-python, or a newer one with axe-playwright-python.
"""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from headless_chromium import EXECUTABLE, Page
from report_samples import PROVENANCE, make_outcome
from transformers import MambaConfig, MambaForCausalLM

from keelback.audit import audit
from keelback.outcome import Outcome
from keelback.report import render_page
from keelback.report.audit import audit_outcome
from keelback.sweeps import Store
from keelback.sweeps.run import name_of
from keelback.watch import PageServer, reader_of

PACKAGES = ("axe_playwright_python", "axe_core_python")


def axe() -> Path | None:
    """The script, in the newest of the packages that are installed."""
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is not None and found.origin is not None:
            return Path(found.origin).with_name("axe.min.js")
    return None


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="chromium is not installed"),
    pytest.mark.skipif(axe() is None, reason="axe-core-python is not installed"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


def violations(browser: Page) -> list[str]:
    """The rules that are broken seriously, each with the first element that breaks it."""
    script = axe()
    assert script is not None
    browser.evaluate(script.read_text(encoding="utf-8") + "\n;typeof axe")
    browser.evaluate(
        "window.found = null; axe.run(document).then("
        "(told) => { window.found = [told.passes.length, told.violations]; })"
    )
    browser.wait_for("window.found !== null", seconds=60)
    passed, broken = json.loads(browser.evaluate("JSON.stringify(window.found)"))
    assert passed > 10
    return [
        f"{rule['id']} ({rule['impact']}): {rule['nodes'][0]['html'][:200]}"
        for rule in broken
        if rule["impact"] in ("serious", "critical")
    ]


class Address:
    """What the browser is told to open."""

    def __init__(self, address: str) -> None:
        self._address = address

    def as_uri(self) -> str:
        return self._address


def audited() -> Outcome:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, state_size=4)
    tokens = torch.randint(40, (1, 160))
    return audit_outcome(audit(MambaForCausalLM(config), tokens, train_length=40))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("made", [make_outcome, audited], ids=["report", "audit"])
def test_reports(browser: Page, tmp_path: Path, made: object, dark: bool) -> None:
    path = tmp_path / "page.html"
    assert callable(made)
    path.write_text(render_page([made()], PROVENANCE))
    for width in (390, 1280):
        browser.open(path, width=width, dark=dark)
        browser.evaluate("dispatchEvent(new Event('beforeprint'))")
        charts = "[...document.querySelectorAll('.chart')]"
        browser.wait_for(f"{charts}.every((chart) => chart.querySelector('.main-svg'))")
        assert violations(browser) == []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two runs, one of which diverged, and a note that cannot be read."""
    store = Store.create(tmp_path / "store")
    for seed in (1, 2):
        run = {"kind": "made-up", "seed": seed}
        folder = store.directory / "runs" / name_of(run)
        folder.mkdir()
        rows = [{"epoch": epoch, "loss": 2.0 - epoch + seed} for epoch in range(2)]
        pl.DataFrame(rows).write_parquet(folder / "history.parquet")
        record = {"run": run, "summary": {"diverged": seed == 2}, "provenance": {}}
        (folder / "run.json").write_text(json.dumps(record))
    (store.directory / "requests").mkdir()
    (store.directory / "requests" / "mine.json").write_text("{")
    return store


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_watch(browser: Page, store: Store, dark: bool) -> None:
    with PageServer(reader_of(store.directory)) as server:
        for width in (390, 1280):
            browser.open(Address(server.address), width=width, dark=dark)
            assert violations(browser) == []

"""The page of an audit in a real browser, of a model and tokens that try to run code."""

from pathlib import Path

import pytest
import torch
from headless_chromium import EXECUTABLE, Page
from report_samples import HOSTILE, PROVENANCE
from transformers import MambaConfig, MambaForCausalLM

from keelback.audit import audit
from keelback.report import render_page
from keelback.report.audit import audit_outcome

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, state_size=4)
    tokens = torch.randint(40, (1, 160))
    result = audit(
        MambaForCausalLM(config),
        tokens,
        train_length=40,
        label=lambda token: f"{token} {HOSTILE}",
        name=HOSTILE,
    )
    path = tmp_path_factory.mktemp("audit") / "report.html"
    path.write_text(render_page([audit_outcome(result)], PROVENANCE))
    return path


@pytest.mark.parametrize("width", [390, 768, 1280], ids=["phone", "tablet", "desktop"])
def test_nothing_of_a_hostile_model_runs(page_file: Path, tmp_path: Path, width: int) -> None:
    with Page(tmp_path) as page:
        page.open(page_file, width=width)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.wait_for(
            "[...document.querySelectorAll('.chart')].every((c) => c.querySelector('.main-svg'))"
        )
        shown = page.evaluate("document.body.innerText")
        attack = HOSTILE.split("\u2028")[0]
        assert f"Audit of {attack}" in shown
        assert shown.count(attack) > 10
        assert page.evaluate("typeof window.pwned") == "undefined"
        assert page.evaluate("document.querySelectorAll('img, .chart a').length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.logged == []
        requested = {url for url in page.requested if not url.startswith("data:")}
        assert requested == {page_file.as_uri()}


def test_layers_are_counted_in_whole_numbers(page_file: Path, tmp_path: Path) -> None:
    with Page(tmp_path) as page:
        page.open(page_file, width=390)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        memory = "[...document.querySelectorAll('.chart')][1]"
        page.wait_for(f"{memory}.querySelector('.xtick')")
        ticks = page.evaluate(
            f"[...{memory}.querySelectorAll('.xtick text')].map((t) => t.textContent)"
        )
        assert ticks == ["0", "1"]

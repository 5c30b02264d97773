"""What the README and the docs say can be done, can be done."""

import re
from pathlib import Path

import pytest

from keelback.cli.app import app, load_commands

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_documents_exists(document: Path) -> None:
    load_commands()
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    named = re.findall(r"^    keelback (?!-)(\S+)", document.read_text(), re.MULTILINE)
    named += re.findall(r"`keelback (?!\.|-)([a-z][a-z-]*)", document.read_text())
    assert set(named) <= known


def test_the_page_on_commands_names_every_command_and_benchmark() -> None:
    load_commands()
    text = (ROOT / "docs/reference/commands.md").read_text()
    names = {one.name or one.callback.__name__ for one in app.registered_commands}
    [bench] = [group.typer_instance for group in app.registered_groups if group.name == "bench"]
    names |= {f"bench {one.name or one.callback.__name__}" for one in bench.registered_commands}
    missing = [name for name in sorted(names) if not re.search(rf"\b{name}\b", text)]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_local_link_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []


def test_pages_link_to_the_glossary_where_its_words_appear_first() -> None:
    """The site's strict build checks that each of these links leads to an entry."""
    pages = {
        "index": "selective-state-space-model",
        "start/which-command": "stable",
        "guides/audit": "spectral-abscissa",
        "guides/repair": "horizon",
        "guides/monitor": "spectral-abscissa",
        "guides/sweeps": "sweep-store",
        "guides/scan": "selective-state-space-model",
        "studies/bounds": "bounds-and-certificates",
        "studies/dynamics": "gate",
        "studies/experiments": "spectral-abscissa",
    }
    for page, entry in pages.items():
        text = (ROOT / "docs" / f"{page}.md").read_text()
        assert re.search(rf"reference/glossary\.md#{entry}\)", text), page

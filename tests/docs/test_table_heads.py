"""The columns of the tables on the pages have names that a reader understands."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TABLE = re.compile(r"<!-- table: (\S+) -->\n(\|.*\|)\n")
#: Symbols of the papers, operators of libraries: as the text around a table writes them.
SYMBOLS = {"s_A", "B_u", "B_q", "associative_scan"}


@pytest.fixture(scope="module")
def heads() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        importlib.import_module("fill_tables")
        return importlib.import_module("table_heads")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_no_head_is_a_name_of_the_code(page: Path) -> None:
    for source, line in TABLE.findall(page.read_text(encoding="utf-8")):
        code = set(re.findall(r"\w+_\w+", line)) - SYMBOLS
        assert not code, f"{source}: add to tools/table_heads.py"


def test_every_head_is_used(heads: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked up while the tables of all pages are made again."""
    fill = sys.modules["fill_tables"]
    used: set[str] = set()

    def watched(source: str, name: str) -> str:
        head: str = heads.head_of(source, name)
        used.add(head)
        return head

    monkeypatch.setattr(fill, "head_of", watched)
    for page in PAGES:
        for source, _ in TABLE.findall(page.read_text(encoding="utf-8")):
            fill.as_markdown(source)
    known = {head for of_table in heads.HEADS.values() for head in of_table.values()}
    assert known - used == set()

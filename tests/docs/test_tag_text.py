"""The text of a release's tag."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import tag_text
from results_index import Result

CHANGELOG = """# Changelog

## 0.2.0 - 2027-01-02

### Added

- One thing.

### Fixed

- Another.

## 0.1.0 - 2026-12-01

### Added

- Everything.
"""


def result(path: str, *commits: str) -> Result:
    found = Result(path, ["make"])
    found.commits |= set(commits)
    return found


@pytest.mark.parametrize(
    ("version", "head"),
    [
        ("0.2.0", "keelback 0.2.0, 2027-01-02\n\nAdded:\n\n- One thing.\n\nFixed:\n\n- Another."),
        ("0.1.0", "keelback 0.1.0, 2026-12-01\n\nAdded:\n\n- Everything."),
    ],
)
def test_it_is_the_versions_part_of_the_changelog(version: str, head: str) -> None:
    assert tag_text.text_of(version, CHANGELOG, {}, None).startswith(head + "\n\nResults:")


def test_it_says_where_results_come_from() -> None:
    now, before = "0123456789ab", "ba9876543210"
    results = {"a": result("a", now), "b": result("b", now, before), "c": result("c", before)}
    text = tag_text.text_of("0.1.0", CHANGELOG, results, now)
    assert "each of 3 results. The code of this commit made 1 of them" in text
    assert "they name 2 commits" in text
    assert "For none of them the code differed" in text
    results |= {"d": result("d", f"{before}-dirty"), "e": result("e")}
    text = tag_text.text_of("0.1.0", CHANGELOG, results, now)
    assert "made 1 of them, and in all they name 2 commits" in text
    assert text.endswith("differed from its commit, or is not known, for 2: d, e.\n")

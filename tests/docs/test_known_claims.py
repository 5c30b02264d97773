"""The page of what is known shows every claim of a committed result, with numbers from its file."""

import importlib
import json
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool(name: str) -> ModuleType:
    if str(ROOT / "tools") not in sys.path:
        sys.path.insert(0, str(ROOT / "tools"))
    return importlib.import_module(name)


known = tool("known_claims")
LISTS = [ROOT / "tools" / name for name in ("known_papers.toml", "known_ours.toml")]
PARTS = [(file, part) for file in LISTS for part in tomllib.loads(file.read_text())]
SMALL = {"results/experiments/locality-quick"}
"""Smaller versions of experiments, whose claims the full ones make as well."""


def test_every_claim_of_a_result_is_listed() -> None:
    begins: dict[str, list[str]] = {}
    for file, part in PARTS:
        for one in tomllib.loads(file.read_text())[part]:
            for each in one.get("each", [""]):
                row = known._with(one, each)
                begins.setdefault(row["result"], []).append(row.get("statement", "\n"))
    missing = []
    for file in sorted((ROOT / "results/experiments").glob("*/results.json")):
        claims = json.loads(file.read_text()).get("claims")
        result = file.parent.relative_to(ROOT).as_posix()
        if isinstance(claims, dict) and result not in SMALL:
            for claim in (claim for group in claims.values() for claim in group):
                if not claim["statement"].startswith(tuple(begins.get(result, "\n"))):
                    missing.append((result, claim["statement"]))
    assert missing == []


@pytest.mark.parametrize(("file", "part"), PARTS, ids=[part for _, part in PARTS])
def test_every_row_has_a_verdict_a_number_and_a_file(file: Path, part: str) -> None:
    heading, *rows = known.table(file, part)
    for row in rows:
        cells = dict(zip(heading, row, strict=True))
        assert cells["claim"]
        assert cells["verdict"]
        assert cells["measured"]
        assert (ROOT / cells["file"].strip("`")).is_file()


def test_no_row_is_there_twice() -> None:
    rows = [tuple(row) for file, part in PARTS for row in known.table(file, part)[1:]]
    assert len(rows) == len(set(rows))


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    claim = {"statement": "A gate opens (a).", "verdict": "holds", "evidence": "3 of 3 < 4"}
    numbers = {
        "slope": {"mean": -0.5, "lower": -0.75, "upper": -0.25},
        "rows": [{"name": "a", "n": 5, "far": 1.0}, {"name": "b", "n": 4, "far": None}, {"n": 4}],
        "triple": [0.5, 0.25, 0.75],
        "risk": 0.12301,
    }
    document = {"claims": {"x": [claim]}, "outcomes": {"x": numbers}}
    (tmp_path / "x").mkdir()
    (tmp_path / "x/results.json").write_text(json.dumps(document))
    monkeypatch.setattr(known, "ROOT", tmp_path)
    return {"result": "x"}


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        (
            {"statement": "A gate", "of": "listops", "seeds": ["rows", "*", "n"]},
            ["A gate opens (a)", "ListOps", "holds", "3 of 3 &lt; 4", "", "4 to 5"],
        ),
        (
            {"statement": "A gate", "effect": ["slope"], "unit": "per step", "seeds": ["rows"]},
            ["A gate opens (a)", "", "holds", "-0.5 per step", "-0.75 to -0.25", "3"],
        ),
        (
            {"claim": "It falls.", "effect": ["slope"], "expects": "below 0"},
            ["It falls", "", "holds", "-0.5", "-0.75 to -0.25", ""],
        ),
        (
            {"claim": "It falls.", "effect": ["triple"], "expects": "below 0"},
            ["It falls", "", "does not hold", "+0.5", "+0.25 to +0.75", ""],
        ),
        (
            {"claim": "It rises.", "effect": ["triple"], "expects": "above 0"},
            ["It rises", "", "holds", "+0.5", "+0.25 to +0.75", ""],
        ),
        (
            {"claim": "Near.", "effect": ["rows", "*", "far"], "within": 0.5},
            ["Near", "", "holds at 0 of 1", "+1 to +1", "", ""],
        ),
        (
            {"claim": "Small.", "bound": ["risk"]},
            ["Small", "", "certified", "at most 0.124", "one-sided", ""],
        ),
        (
            {"statement": "A gate", "seeds": ["rows", "name=()", "n"]},
            ["A gate opens (a)", "", "holds", "3 of 3 &lt; 4", "", "5"],
        ),
        (
            {"claim": "Count.", "effect": ["rows", "name=b", "n"]},
            ["Count", "", "measured", "4", "", ""],
        ),
    ],
)
def test_a_row(result: dict[str, Any], row: dict[str, Any], cells: list[str]) -> None:
    assert known._rows(result | row) == [[*cells, "`x/results.json`"]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"statement": "No gate"}, "no claim that begins with 'No gate'"),
        ({"claim": "x", "effect": ["rows", "name=c", "n"]}, "nothing lies at rows / name=c / n"),
        ({"claim": "x", "effect": ["rows", "*", "gone"]}, "nothing lies at"),
    ],
)
def test_what_is_not_there_is_an_error(
    result: dict[str, Any], row: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, KeyError), match=message):
        known._rows(result | row)


def test_each_makes_a_row_of_each_value() -> None:
    row = known._with({"of": "{}", "effect": ["a", "b={}"], "within": 2}, "c")
    assert row == {"of": "c", "effect": ["a", "b=c"], "within": 2}

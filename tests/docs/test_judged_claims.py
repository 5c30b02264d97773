"""Committed verdicts are those of today's rules where these read committed numbers alone."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from keelback.commit import commit

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "results" / "experiments"


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("judge_again", ROOT / "tools/judge_again.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


JUDGE = tool()


def on_order(result: dict) -> list[tuple[str, dict]]:
    return [
        (name, claim)
        for name, claims in result.get("claims", {}).items()
        for claim in claims
        if JUDGE.ORDER.fullmatch(claim["statement"])
    ]


RESULTS = [
    path.parent.name
    for path in sorted(COMMITTED.glob("*/results.json"))
    if isinstance(json.loads(path.read_text()).get("claims"), dict)
    and on_order(json.loads(path.read_text()))
]


def test_claims_on_the_order_of_epochs_are_found() -> None:
    assert {"locality-laws-full", "locality-paper", "majority-voting-theorem"} <= set(RESULTS)


@pytest.mark.parametrize("name", RESULTS)
def test_committed_verdicts_are_those_of_the_rule(name: str) -> None:
    result = json.loads((COMMITTED / name / "results.json").read_text())
    for outcome, claims in result["claims"].items():
        assert list(JUDGE.judged(result["outcomes"][outcome]["grid"], claims)) == claims


def test_judging_changes_claims_alone_and_says_who_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "locality-paper").mkdir()
    file = tmp_path / "locality-paper/results.json"
    shutil.copy(COMMITTED / "locality-paper/results.json", file)
    old = json.loads(file.read_text())
    old.pop("judged", None)
    name, claim = next((n, c) for n, c in on_order(old) if c["verdict"] == "not decided")
    right, claim["verdict"] = dict(claim), "holds"
    file.write_text(json.dumps(old))
    monkeypatch.setattr(JUDGE, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["judge_again.py", "locality-paper"])
    JUDGE.main()
    assert f"{claim['statement']} holds -> not decided" in capsys.readouterr().out
    new = json.loads(file.read_text())
    assert new.pop("judged").items() >= {"claims": [claim["statement"]], "commit": commit()}.items()
    old["claims"][name] = [right if c is claim else c for c in old["claims"][name]]
    assert new == old


def test_a_result_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["judge_again.py", "nothing", "--allow-dirty"])
    with pytest.raises(SystemExit, match="there is no result nothing"):
        JUDGE.main()

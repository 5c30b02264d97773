"""The scripts of the house say what they are for, and the one that compares commits compares."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "tools").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_says_what_it_is_for_and_how_to_call_it(script: Path) -> None:
    tree = ast.parse(script.read_text())
    said = ast.get_docstring(tree)
    assert said is not None
    if any(isinstance(node, ast.If) and "__main__" in ast.dump(node.test) for node in tree.body):
        words = " ".join(said.split())
        assert f"python tools/{script.name}" in words or re.search(r"`make [a-z-]+`", words)


@pytest.mark.slow
def test_commits_are_timed_side_by_side(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no history here")
    command = [sys.executable, str(ROOT / "tools/compare_commits.py"), "HEAD", "HEAD"]
    command += ["--shape", "2,16,2,2", "--step", "2,1,2,2", "--dtype", "float32", "--repeats", "1"]
    subprocess.run([*command, "--out", str(tmp_path / "found.json")], check=True, timeout=600)
    found = json.loads((tmp_path / "found.json").read_text())
    [commit] = found["commits"]
    assert [(row["pass"], row["decay"]) for row in found["rows"]] == [
        ("forward", "as Mamba starts"),
        ("forward", "slow"),
        ("backward", "as Mamba starts"),
        ("step", "as Mamba starts"),
    ]
    assert all(row[f"{commit}, ms"] > 0 for row in found["rows"])


def test_a_commit_that_is_not_there_is_named() -> None:
    command = [sys.executable, str(ROOT / "tools/compare_commits.py"), "no-such-commit"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no-such-commit" in done.stderr

"""The tutorials run from their first cell to their last, and show what they printed."""

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
run_notebooks = importlib.import_module("run_notebooks")

SLOW = {"audit-and-repair", "new-task-and-experiment", "sweep-on-ray"}
"""Ray alone takes its time to start."""
NOTEBOOKS = sorted(run_notebooks.FOLDER.glob("*.ipynb"))
NEEDS = {
    "audit-and-repair": ("transformers", "matplotlib"),
    "bounds-to-certificate": ("flint", "matplotlib"),
    "gate-in-ten-minutes": ("matplotlib",),
    "new-task-and-experiment": ("matplotlib",),
    "scan-in-your-model": ("transformers",),
    "sweep-on-ray": ("ray",),
    "train-with-monitor": ("matplotlib",),
}


def marked(path: Path) -> Any:
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW))


def cells(path: Path) -> list[dict[str, Any]]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_there_are_seven() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(NEEDS)


@pytest.mark.parametrize("path", [marked(path) for path in NOTEBOOKS])
def test_a_tutorial_runs(path: Path, tmp_path: Path) -> None:
    """In a folder of its own. A cell that fails, its assertions included, fails the test."""
    for module in NEEDS[path.stem]:
        pytest.importorskip(module)
    ran = run_notebooks.executed(path, tmp_path)
    shown = [cell for cell in ran.cells if cell.cell_type == "code"]
    for new, kept in zip(shown, cells(path), strict=True):
        assert kinds(new.outputs) == kinds(kept["outputs"]), "run tools/run_notebooks.py again"


def kinds(outputs: list[Any]) -> set[str]:
    """What sorts of outputs there are; their numbers differ from machine to machine."""
    return {one["output_type"] for one in outputs if one.get("name") != "stderr"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_are_of_no_machine(path: Path) -> None:
    counts = [cell["execution_count"] for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1)), "run tools/run_notebooks.py"
    outputs = [one for cell in cells(path) for one in cell["outputs"]]
    assert len(outputs) >= 3
    assert not any(one.get("name") == "stderr" for one in outputs)
    assert not any(one["output_type"] == "error" for one in outputs)
    text = json.dumps([{**one, "data": texts(one)} for one in outputs])
    for place in (ROOT, Path.home(), sys.prefix, tempfile.gettempdir(), "site-packages"):
        assert str(place) not in text, place


def texts(output: dict[str, Any]) -> dict[str, Any]:
    return {kind: x for kind, x in output.get("data", {}).items() if not kind.startswith("image")}


def test_each_is_small_enough_to_be_read_in_a_browser() -> None:
    for path in NOTEBOOKS:
        assert path.stat().st_size < 300_000, path

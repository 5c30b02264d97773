"""Committed figures are drawn again from their numbers alone."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def redraw(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("redraw", ROOT / "tools/redraw_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)

    def run(*names):
        for name in names:
            (tmp_path / name).mkdir()
            given = ROOT / "results/experiments" / name / "results.json"
            shutil.copy(given, tmp_path / name / "results.json")
        monkeypatch.setattr(sys, "argv", ["redraw_figures.py", *names])
        module.main()
        return capsys.readouterr().out

    return run


def test_figures_come_from_the_numbers_alone_and_the_same_each_time(redraw, tmp_path):
    shown = redraw("baselines-listops", "sample-complexity-majority-paper", "measures")
    drawn = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
    assert len(drawn) == shown.count("drawn ") == 4
    committed = ROOT / "results/experiments"
    for path in drawn:
        assert (committed / path).exists()
        assert (tmp_path / path).with_suffix(".pdf").exists()


def test_a_figure_that_needs_its_runs_is_named_and_left(redraw, tmp_path):
    folder = tmp_path / "stability-margin-listops" / "figures"
    folder.mkdir(parents=True)
    (folder / "by-length.png").write_bytes(b"")
    shutil.copy(ROOT / "results/experiments/stability-margin-listops/results.json", folder.parent)
    shown = redraw()
    assert "left   stability-margin-listops/by-length: needs its runs" in shown
    assert (folder / "by-length.png").read_bytes() == b""

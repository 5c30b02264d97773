"""Committed figures are drawn again from their numbers alone."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from keelback.commit import commit
from keelback.outcome import Figure, Line, Panel
from keelback.report import load_figure, save_figure_data

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "results" / "experiments"


@pytest.fixture
def redraw(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("redraw", ROOT / "tools/redraw_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)

    def run(*asked):
        folders = {name.partition("/")[0] for name in asked}
        for name in folders & {path.name for path in COMMITTED.iterdir()}:
            (tmp_path / name / "figures").mkdir(parents=True, exist_ok=True)
            given = COMMITTED / name
            shutil.copy(given / "results.json", tmp_path / name / "results.json")
            for png in (given / "figures").glob("*.png"):
                (tmp_path / name / "figures" / png.name).write_bytes(b"old")
        monkeypatch.setattr(sys, "argv", ["redraw_figures.py", *asked])
        module.main()
        return capsys.readouterr().out

    return run


def without_notes(path):
    result = json.loads(path.read_text())
    result.pop("redrawn", None)
    return result


def test_figures_come_from_the_numbers_alone_which_stay_as_they_are(redraw, tmp_path):
    names = (
        "baselines-listops",
        "sample-complexity-majority-paper",
        "locality-theorem",
        "majority-laws-full",
    )
    shown = redraw(*names)
    drawn = [path for path in tmp_path.rglob("*.png") if path.read_bytes() != b"old"]
    assert len(drawn) == shown.count("from results.json") == len(names)
    for path in drawn:
        assert path.with_suffix(".pdf").exists()
        assert load_figure(path.with_suffix(".json")).name == path.stem
    for name in names:
        again = tmp_path / name / "results.json"
        assert without_notes(again) == without_notes(COMMITTED / name / "results.json")


@pytest.mark.parametrize(
    "name", ["locality-quick/locality-epochs-quick", "locality-laws-full/locality-laws-full"]
)
def test_numbers_give_the_figure_that_their_report_drew(redraw, tmp_path, name):
    folder, _, figure = name.partition("/")
    redraw(name)
    drawn = load_figure(tmp_path / folder / "figures" / f"{figure}.json")
    assert drawn == load_figure(COMMITTED / folder / "figures" / f"{figure}.json")


def test_the_result_notes_who_drew_it_and_from_what(redraw, tmp_path):
    redraw("baselines-listops/baselines-listops")
    noted = json.loads((tmp_path / "baselines-listops/results.json").read_text())["redrawn"]
    made = noted["baselines-listops"]
    assert made["from"] == "results.json"
    assert made["command"] == "python tools/redraw_figures.py baselines-listops/baselines-listops"
    assert made["commit"] == commit()
    assert {"versions", "python", "device", "date"} <= set(made)


def test_a_figure_without_numbers_is_drawn_from_its_own_data_or_left(redraw, tmp_path):
    by_length, by_abscissa = (f"stability-margin-listops-by-{by}" for by in ("length", "abscissa"))
    folder = tmp_path / "stability-margin-listops" / "figures"
    panel = Panel("epoch", "loss", lines=[Line([1, 2], [0.7, 0.6])])
    save_figure_data(Figure(by_length, "Loss", [panel]), folder)
    shown = redraw("stability-margin-listops")
    assert f"drawn  stability-margin-listops/{by_length}, from figures/{by_length}.json" in shown
    assert f"left   stability-margin-listops/{by_abscissa}: needs its runs" in shown
    assert (folder / f"{by_length}.png").read_bytes() != b"old"
    assert (folder / f"{by_abscissa}.png").read_bytes() == b"old"
    noted = json.loads((folder.parent / "results.json").read_text())["redrawn"]
    assert list(noted) == [by_length]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("baselines-listops/none", "no figure none in .*it has baselines-listops"),
        ("nothing", "there is no result nothing"),
    ],
)
def test_what_is_not_there_is_named(asked, said, redraw):
    with pytest.raises(SystemExit, match=said):
        redraw(asked)


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*/figures/*.json")), ids=lambda p: p.stem)
def test_committed_data_of_figures_can_be_drawn(path):
    assert load_figure(path).name == path.stem
    assert path.with_suffix(".png").exists()

"""Experiments from outside: their runs, results and outcomes are checked where they enter."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_files import EXPERIMENT

from keelback import load_plugin
from keelback.errors import PluginError
from keelback.experiments import get_experiment
from keelback.sweeps import Store, sweep
from keelback.sweeps.executor import ThisProcess

Cli = Callable[..., tuple[int, str, str]]

RUN = ("reproduce", "squares", "--plugin", "squares.py", "--out", "out", "--workers", "1",
       "--quiet")  # fmt: skip
RUNS = "        return [SquareRun(number=n) for n in range(settings.count)]\n"
YIELD = '            yield run, RunResult({"square": run.number**2})\n'


def squares(old: str = "", new: str = "") -> None:
    assert old in EXPERIMENT
    Path("squares.py").write_text(EXPERIMENT.replace(old, new, 1) if old else EXPERIMENT)


def test_an_experiment_of_a_file_from_runs_to_report(cli: Cli) -> None:
    squares()
    code, out, _ = cli(*RUN, "--json", "--set", "count=4")
    assert code == 0
    assert [row["square"] for row in json.loads(out)["rows"]] == [0, 1, 4, 9]
    assert Path("out/report/report.html").exists()
    stamps = {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("run.json")}
    assert len(stamps) == 4
    assert cli(*RUN, "--json", "--set", "count=4")[1] == out
    assert stamps == {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("run.json")}
    code, again, _ = cli("report", "out", "--plugin", "squares.py", "--json")
    assert (code, json.loads(again)) == (0, {"squares-full": json.loads(out)})


WRONG_RUNS = {
    "None": (RUNS, "        pass\n", "runs() gives None, not runs"),
    "text": (RUNS, "        return 'runs'\n", "runs() gives 'runs'"),
    "numbers": (RUNS, "        return [1, 2]\n", "1 is no run"),
    "classes": (RUNS, "        return [SquareRun]\n", "is no run"),
    "raises": (RUNS, "        return settings.counts\n", "AttributeError"),
    "wrong fields": (RUNS, "        return [SquareRun(n=1)]\n", "number is missing"),
    "exits": (RUNS, "        raise SystemExit(0)\n", "SystemExit"),
    "label": (
        "    count: int = 3\n",
        "    count: int = 3\n    @property\n    def label(self): return '../../up'\n",
        "the name of a label of squares's settings is '../../up'",
    ),
    "no settings": (
        "    count: int = 3\n",
        "    count: int\n",
        "experiment squares: count is missing",
    ),
}


@pytest.mark.parametrize("fault", WRONG_RUNS)
def test_wrong_runs_are_refused_before_anything_is_written(cli: Cli, fault: str) -> None:
    old, new, complaint = WRONG_RUNS[fault]
    squares(old, new)
    code, out, err = cli(*RUN)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert fault in ("label", "no settings") or re.match(r"error: squares\.py:\d+: ", err)
    assert not Path("out").exists()


WRONG_RESULTS = {
    "None": (YIELD, "            yield None\n", "None is no pair of a run and its RunResult"),
    "no result": (YIELD, "            yield run, {'square': 1}\n", "is no pair"),
    "another run": (
        YIELD,
        "            yield SquareRun(number=77), RunResult({})\n",
        "a result is for none of the runs that it was to execute",
    ),
    "nothing": (YIELD, "            continue\n            yield\n", "ended without a result"),
    "not iterable": (
        "        for run in runs:\n" + YIELD, "        return None\n", "gives None, not results"
    ),
    "NaN": (YIELD, "            yield run, RunResult({'x': float('nan')})\n", "give None for no"),
    "a list": (
        YIELD,
        "            result = RunResult({'x': 1})\n"
        "            result.summary['x'] = [1]\n"
        "            yield run, result\n",
        "x of the summary is a",
    ),
    "raises": (YIELD, "            1 / 0\n            yield\n", "ZeroDivisionError"),
    "exits": (YIELD, "            raise SystemExit(0)\n            yield\n", "SystemExit: 0"),
    "weights": (
        YIELD,
        "            import torch\n"
        "            yield run, RunResult({'x': 1}, weights={'w': torch.zeros(2)})\n",
        "there are weights and no `model`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG_RESULTS)
def test_wrong_results_are_refused_and_not_stored(fault: str) -> None:
    old, new, complaint = WRONG_RESULTS[fault]
    squares(old, new)
    load_plugin("squares.py")
    experiment = get_experiment("squares")
    runs = experiment.runs(experiment.settings({"count": 2}))
    store = Store.create(Path("out"))
    with pytest.raises(PluginError, match=rf"squares\.py:\d+: .*{re.escape(complaint)}"):
        sweep(runs, store, executor=ThisProcess())
    assert store.names() == []


OUTCOMES = {
    "None": ("        return Outcome(", "        Outcome(", "None is no keelback.outcome.Outcome"),
    "raises": ('run.summary["square"]', 'run.summary["cube"]', "KeyError: 'cube'"),
    "NaN": ('numbers={"rows": rows}', "numbers={'x': float('nan')}", "its numbers are not JSON"),
    "a tensor": ('numbers={"rows": rows}', "numbers={'x': {1, 2}}", "its numbers are not JSON"),
    "no numbers": ('numbers={"rows": rows}', "numbers=None", "TypeError"),
    "title": ('title="Squares"', "title=None", "title of its Outcome is None, not a str"),
    "figures": ("figures=[Figure", "figures=[None, Figure", "figures of its Outcome has None"),
    "one figure": ("figures=[", "figures=(lambda x: x[0])([", "not a list"),
    "lengths": ('["square"] for', '["square"] for _ in "ab" for', "6 values of y for 3 of x"),
    "infinite": ('y=[row["square"]', 'y=[float("inf")', "squares: inf in '' is not a finite"),
    "texts": ('y=[row["square"]', 'y=["x"', "'x' in '' is not a finite number"),
    "no values": ('y=[row["square"] for row in rows]', "y=3", "TypeError"),
    "columns": ('Column("n", "n")', '"n"', "columns of its Table has 'n', not a Column"),
    "rows": ("columns, rows)", "columns, [1])", "rows of its Table has 1"),
}  # fmt: skip


@pytest.mark.parametrize("fault", OUTCOMES)
def test_wrong_outcomes_are_refused_with_their_place(fault: str) -> None:
    old, new, complaint = OUTCOMES[fault]
    text = EXPERIMENT.replace(old, new, 1)
    if fault == "one figure":
        text = text.replace("lines=[line])])],", "lines=[line])])]),")
    assert text != EXPERIMENT
    Path("squares.py").write_text(text)
    load_plugin("squares.py")
    experiment = get_experiment("squares")
    settings = experiment.settings({})
    store = Store.create(Path("out"))
    results = sweep(experiment.runs(settings), store, executor=ThisProcess())
    if fault == "raises":
        with pytest.raises(KeyError):
            experiment.outcome(settings, results)
        return
    with pytest.raises(PluginError, match=rf"squares\.py:\d+: .*{re.escape(complaint)}"):
        experiment.outcome(settings, results)


OF_A_RUN = {
    "batch_key": ("def batch_key(self): return None", "batch_key of a square run is None"),
    "cost": ("def cost(self): return float('nan')", "cost of a square run is nan"),
    "memory": ("def memory(self): return '1 GiB'", "memory of a square run is '1 GiB'"),
    "field": ("size: float = float('nan')", "the fields of a square run are not JSON"),
}


@pytest.mark.parametrize("fault", OF_A_RUN)
def test_what_a_run_says_of_itself_is_checked(cli: Cli, fault: str) -> None:
    line, complaint = OF_A_RUN[fault]
    squares("    number: int\n", f"    number: int\n    {line}\n")
    code, out, err = cli(*RUN)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
    assert err.startswith("error: squares.py")
    assert not list(Path("out").glob("runs/*"))


def test_an_outcome_that_raises_is_one_line_and_the_runs_are_kept(cli: Cli) -> None:
    squares('run.summary["square"]', 'run.summary["cube"]')
    code, out, err = cli(*RUN)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.match(r"error: squares\.py:\d+: KeyError: 'cube'", err)
    assert len(list(Path("out/runs").iterdir())) == 3

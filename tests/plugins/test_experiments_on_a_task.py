"""The papers' experiments on a task from outside: lengths must be given, all else follows."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_files import TASK

from keelback import load_plugin
from keelback.experiments import get_experiment
from keelback.experiments.first_paper.length_independence import _slope
from keelback.sweeps import StoredRun

Cli = Callable[..., tuple[int, str, str]]

OPEN = [
    "length-independence",
    "stability-margin",
    "stable-by-construction",
    "train-short-test-long",
    "baselines",
]


@pytest.fixture(autouse=True)
def parity() -> None:
    Path("parity.py").write_text(TASK)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", OPEN)
def test_an_experiment_takes_a_task_of_a_file(cli: Cli, experiment: str) -> None:
    code, out, err = cli(
        "reproduce", experiment, "--task", "parity.py", "--seq-len", "3", "--seeds", "2",
        "--quick", "--set", "epochs=1", "--out", "out", "--no-report", "--json", "--workers", "1",
        "--quiet",
    )  # fmt: skip
    assert code == 0
    assert err.endswith("report: none; keelback report out writes it\n")
    found = json.loads(out)
    assert found["task"] == "parity"
    assert found["rows"]
    runs = [json.loads(path.read_text())["run"] for path in Path("out/runs").rglob("run.json")]
    assert {run["task"] for run in runs} == {"parity"}
    assert all(run["plugins"] == runs[0]["plugins"] for run in runs)
    assert all("n_train" not in run["task_settings"] for run in runs), "the task's own sizes"


@pytest.mark.parametrize("experiment", OPEN)
def test_the_papers_have_no_lengths_for_it(cli: Cli, experiment: str) -> None:
    code, out, err = cli("reproduce", experiment, "--task", "parity.py", "--out", "new")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the task parity is not the paper's" in err
    assert "give --seq-len 10,20" in err
    assert not Path("new").exists()


def test_everything_runs_every_experiment_that_takes_any_task(cli: Cli) -> None:
    from keelback.experiments import everything

    load_plugin("parity.py")
    planned, skipped = everything({"task": "parity", "seq_len": ["4"], "quick": True})
    assert [experiment.name for experiment, _ in planned] == OPEN
    assert skipped == []
    planned, _ = everything({"task": "majority"})
    assert "majority" in {settings.task for _, settings in planned}
    assert "parity" not in {settings.task for _, settings in planned}


@pytest.mark.parametrize("experiment", ["mamba-stack", "data-histograms"])
def test_an_experiment_about_one_task_says_so(cli: Cli, experiment: str) -> None:
    code, _, err = cli("reproduce", experiment, "--task", "parity.py", "--out", "new")
    assert code == 2
    assert f"experiment {experiment}: task is 'parity'" in err


def test_the_data_of_each_seed_are_its_own() -> None:
    load_plugin("parity.py")
    experiment = get_experiment("length-independence")
    runs = experiment.runs(experiment.settings({"task": "parity", "seq_len": (3,), "seeds": 3}))
    assert [run.fields()["task_settings"]["data_seed"] for run in runs] == [1, 2, 3]


def test_scores_that_are_all_alike_have_a_slope_of_zero() -> None:
    """SciPy's error of the slope is NaN there, which no JSON has."""
    runs = [
        StoredRun(
            name=str(length),
            folder=Path(),
            fields={"task_settings": {"seq_len": length}},
            summary={"diverged": False, "train_accuracy": 0.5, "test_accuracy": 0.25},
            provenance={},
        )
        for length in (2, 4, 4)
    ]
    slope = _slope(runs, lambda run: 0.25)
    assert slope == {"per_doubling": 0.0, "lower": 0.0, "upper": 0.0}

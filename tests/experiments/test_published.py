"""The published figures in the package are those of the reference logs."""

import csv
import json
import statistics
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest


def published() -> dict[str, Any]:
    return dict(
        json.loads(files("keelback.experiments._shared").joinpath("published.json").read_text())
    )


@pytest.mark.shared
def test_accuracies_are_the_means_of_the_logged_runs(shared: Path) -> None:
    logged = defaultdict(list)
    with (shared / "reference/length_independence.csv").open() as file:
        for row in csv.DictReader(file):
            logged[row["task"], int(row["T"])].append(float(row["test_accuracy"]))
    ours = {
        (task, row["seq_len"]): row
        for task, rows in published()["length_independence"].items()
        for row in rows
    }
    assert ours.keys() == logged.keys()
    for key, values in logged.items():
        assert ours[key]["runs"] == len(values)
        assert ours[key]["test"] == pytest.approx(statistics.mean(values), abs=1e-5)
        assert ours[key]["test_std"] == pytest.approx(statistics.stdev(values), abs=1e-5)


@pytest.mark.shared
def test_abscissas_are_those_after_the_last_logged_epoch(shared: Path) -> None:
    last: dict[tuple[Any, ...], dict[str, str]] = {}
    with (shared / "reference/stability_margin.csv").open() as file:
        for row in csv.DictReader(file):
            if int(row["epoch"]) > 0:
                key = (row["task"], int(row["T"]), float(row["s_A_init"]), int(row["seed"]))
                last[key] = row
    ours = {
        (task, row["seq_len"], row["abscissa"], row["seed"]): row
        for task, rows in published()["stability_margin"].items()
        for row in rows
    }
    assert ours.keys() == last.keys()
    for key, row in last.items():
        assert ours[key]["s_A"] == pytest.approx(float(row["s_A"]), rel=1e-5)
        assert ours[key]["loss"] == pytest.approx(float(row["loss"]), rel=1e-5)
        assert ours[key]["epochs"] == int(row["epoch"])

"""Paired comparisons against SciPy, and what counts as a survivor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from keelback.experiments._shared.scores import (
    by_seed,
    divergence_tables,
    paired_difference,
    seed_table,
    shared_by_seed,
)
from keelback.sweeps.store import StoredRun


def stored(seq_len: int, seed: int, test: float | None) -> StoredRun:
    diverged = test is None
    fields: dict[str, Any] = {
        "seed": seed,
        "task_settings": {"seq_len": seq_len},
        "model": {"kind": "rnn"},
    }
    summary = {
        "diverged": diverged,
        "test_accuracy": test,
        "diverged_epoch": 3 if diverged else None,
        "diverged_step": 7 if diverged else None,
        "diverged_tensor": "y" if diverged else None,
    }
    return StoredRun(f"{seq_len}-{seed}", Path(), fields, summary, {})


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8))
def test_paired_difference_is_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = np.array(pairs).T
    if np.std(ours - theirs) < 1e-6:
        return
    found = paired_difference(dict(enumerate(ours)), dict(enumerate(theirs)))
    expected = stats.ttest_rel(ours, theirs)
    interval = expected.confidence_interval(0.95)
    assert found is not None
    assert found.pairs == len(pairs)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.lower, found.upper) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_paired_difference_at_its_borders() -> None:
    assert paired_difference({1: 0.5}, {2: 0.5}) is None
    one = paired_difference({1: 0.5, 2: 0.1}, {1: 0.25})
    assert one is not None
    assert (one.pairs, one.mean, one.p_value) == (1, 0.25, None)
    same = paired_difference({1: 0.5, 2: 0.25}, {1: 0.5, 2: 0.25})
    shifted = paired_difference({1: 0.5, 2: 0.25}, {1: 0.25, 2: 0.0})
    assert same is not None
    assert shifted is not None
    assert (same.p_value, same.lower, same.upper) == (1.0, 0.0, 0.0)
    assert (shifted.p_value, shifted.lower, shifted.upper) == (0.0, 0.25, 0.25)


def test_seeds_are_compared_at_the_lengths_where_both_survived() -> None:
    ours = [stored(10, 1, 0.8), stored(20, 1, 0.6), stored(10, 2, 0.7), stored(20, 2, 0.7)]
    theirs = [stored(10, 1, 0.7), stored(20, 1, None), stored(10, 2, 0.5), stored(20, 2, 0.5)]
    assert by_seed(theirs) == {1: 0.7, 2: 0.5}
    found = shared_by_seed(ours, theirs)
    assert found is not None
    assert found.pairs == 2
    assert found.mean == pytest.approx((0.1 + 0.2) / 2)


def test_every_divergence_has_a_row() -> None:
    runs = [stored(10, 1, 0.8), stored(20, 1, None), stored(20, 2, None)]
    [table] = divergence_tables("x", runs)
    assert [(row["seq_len"], row["seed"]) for row in table.rows] == [(20, 1), (20, 2)]
    assert table.rows[0]["tensor"] == "y"
    assert "2 of 3" in table.title
    assert divergence_tables("x", runs[:1]) == []


@pytest.mark.parametrize(
    ("differences", "no_worse"),
    [
        ([0.02, 0.03, 0.025], True),
        ([-0.002, 0.001, 0.0], True),
        ([-0.1, 0.1, 0.0], None),
        ([-0.02, -0.021, -0.022], False),
        ([-0.02], None),
    ],
)
def test_no_worse_wants_an_interval_within_a_point(
    differences: list[float], no_worse: bool | None
) -> None:
    found = paired_difference(dict(enumerate(differences)), dict.fromkeys(range(3), 0.0))
    assert found is not None
    assert found.no_worse() is no_worse


def test_runs_that_went_on_after_an_overflow_have_their_own_table() -> None:
    summary = {"zeroed_steps": 2, "s_A": -0.01, "train_accuracy": 1.0}
    runs = [stored(10, 1, 0.75), stored(10, 2, 0.5), stored(10, 3, None)]
    runs[1:] = [replace(run, summary={**run.summary, **summary}) for run in runs[1:]]
    diverged, recovered = divergence_tables("x", runs)
    assert [row["seed"] for row in diverged.rows] == [3]
    assert (recovered.name, recovered.title) == (
        "recoveries-x",
        "Went on after an overflow: 1 of 3 trainings",
    )
    assert recovered.rows == [
        {
            "seq_len": 10,
            "model": "rnn",
            "seed": 2,
            "zeroed_steps": 2,
            "s_A": -0.01,
            "train": 1.0,
            "test": 0.5,
        }
    ]


def test_seeds_are_averaged_over_the_lengths_that_they_survived() -> None:
    runs = [stored(10, 1, 0.75), stored(20, 1, 0.25), stored(10, 2, 0.5), stored(20, 2, None)]
    runs = [
        replace(run, summary={**run.summary, "train_accuracy": run.summary["test_accuracy"]})
        for run in runs
    ]
    table = seed_table("x", [*runs, stored(10, 3, None)])
    assert table.rows == [
        {"model": "rnn", "seed": 1, "survived": "2 of 2", "train": 0.5, "test": 0.5},
        {"model": "rnn", "seed": 2, "survived": "1 of 2", "train": 0.5, "test": 0.5},
        {"model": "rnn", "seed": 3, "survived": "0 of 1", "train": None, "test": None},
    ]

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keelback.dynamics import (
    GaussianNoise,
    Locality,
    MajorityVoting,
    StudentNoise,
)
from keelback.errors import InputError
from keelback.experiments import get_experiment
from keelback.experiments.second_paper.gate_alignment_trials import HarnessTrials
from keelback.experiments.second_paper.gated_reading import trial_row
from keelback.experiments.second_paper.gated_trials import GatedTrials, outcomes_of
from keelback.experiments.second_paper.locality_gate import first_rows, last_rows
from keelback.experiments.second_paper.sample_complexity import _at_gap, _ranked
from keelback.experiments.second_paper.sample_threshold import (
    SampleThreshold,
    _crossing,
    _isotonic,
    threshold_row,
)
from keelback.sweeps import Store, sweep
from keelback.sweeps.run import RunResult, run_from_fields

TINY = GatedTrials(
    pattern=MajorityVoting(0.5, 0.1, 10, 5),
    samples=32,
    test_samples=32,
    width=4,
    epochs=60,
    target=0.5,
    trials=3,
)


def executed(*runs):
    shares = []
    results = dict(type(runs[0]).execute(runs, shares.append))
    assert shares[-1] == pytest.approx(1.0)
    assert shares == sorted(shares)
    return [results[run] for run in runs]


def stored(tmp_path, run):
    store = Store.create(tmp_path / "store")
    for result in executed(run):
        store.add(run, result, {})
    return store.get(run.name)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"noise": StudentNoise(0.1)},
        {"noise": StudentNoise(0.1, 5.0)},
        {"noise": GaussianNoise(0.1)},
        {"pattern": Locality(2, 5, 10, 5), "source": "paired"},
        {"record": "course", "stop_at_target": False, "target": None},
    ],
)
def test_a_run_is_its_fields(changes):
    run = TINY.model_copy(update=changes)
    again = run_from_fields(json.loads(json.dumps(run.fields())))
    assert again == run
    assert again.name == run.name


def test_trials_keep_their_seeds_whatever_runs_with_them():
    other = TINY.model_copy(update={"pattern": MajorityVoting(0.7, 0.1, 10, 5), "first_seed": 5})
    wider = TINY.model_copy(update={"width": 6})
    together = executed(TINY, other, wider)
    assert together == [executed(run)[0] for run in (TINY, other, wider)]
    assert [row["seed"] for row in together[1].history] == [5, 6, 7]
    assert together[0].summary["trials"] == 3


def test_rows_say_how_each_trial_ended(tmp_path):
    run = TINY.model_copy(update={"epochs": 2, "target": 1e-3})
    found = stored(tmp_path, run)
    assert found.summary["censored"] == 3
    assert outcomes_of(found).tolist() == [math.inf] * 3
    row = trial_row("tiny", run, found)
    assert row["epochs"] is None
    assert row["share"] == 0
    assert row["shown_epochs"] == "censored"
    json.dumps(row, allow_nan=False)


def test_numba_leaves_pytorch_its_number_of_threads():
    """Else a worker that is pinned to one core would wait for threads that share it."""
    program = (
        "import torch; from keelback.experiments.second_paper.gated_trials import use_device\n"
        "torch.set_num_threads(1); use_device(); print(torch.get_num_threads())"
    )
    environment = os.environ | {"NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=True
    )
    assert done.stdout.split() == [b"1"]


def test_a_course_has_a_row_a_trial_and_time(tmp_path):
    run = TINY.model_copy(update={"record": "course", "stop_at_target": False})
    rows = stored(tmp_path, run).history()
    for seed in range(3):
        epochs = [row["epoch"] for row in rows if row["seed"] == seed]
        assert epochs[0] == 0
        assert epochs[-1] == 60
        assert epochs == sorted(set(epochs))


def test_bisection_ends_around_the_threshold(monkeypatch):
    run = SampleThreshold(**TINY.model_dump(exclude={"samples"}), samples=512, fewest=8)
    tried = []

    def attempt(self, samples, device):
        tried.append(samples)
        successes = 0 if samples < 100 else self.trials
        return {"samples": samples, "trials": self.trials, "successes": successes, "ranked": 0}

    monkeypatch.setattr(SampleThreshold, "attempt", attempt)
    (result,) = executed(run)
    assert len(tried) <= run.steps() + 1
    samples = [row["samples"] for row in result.history]
    below, above = max(n for n in samples if n < 100), min(n for n in samples if n >= 100)
    assert above / below <= 1.1
    assert all(n % 2 == 0 for n in samples)


def test_bisection_stops_where_the_threshold_lies_outside(monkeypatch):
    run = SampleThreshold(**TINY.model_dump(exclude={"samples"}), samples=64, fewest=8)
    for successes in (0, 3):
        monkeypatch.setattr(
            SampleThreshold,
            "attempt",
            lambda self, samples, device, successes=successes: {
                "samples": samples,
                "trials": 3,
                "successes": successes,
                "diverged": 0,
            },
        )
        assert len(executed(run)[0].history) == 2


def test_real_bisection_trains_on_more_and_more(tmp_path):
    run = SampleThreshold(
        **TINY.model_dump(exclude={"samples", "target"}), target=0.2, samples=16, fewest=2
    )
    (result,) = executed(run)
    samples = [row["samples"] for row in result.history]
    assert samples[0] == 2
    assert samples[-1] == 16
    assert all(row["trials"] == 3 for row in result.history)


def test_crossings():
    samples = np.array([8.0, 16.0, 32.0])
    assert _crossing(samples, np.array([0.0, 0.5, 1.0])) == pytest.approx(16)
    assert _crossing(samples, np.array([0.0, 0.0, 1.0])) == pytest.approx(math.sqrt(16 * 32))
    assert _crossing(samples, np.array([0.6, 0.7, 1.0])) == 0
    assert _crossing(samples, np.array([0.0, 0.1, 0.4])) == math.inf
    np.testing.assert_allclose(
        _isotonic(np.array([0.2, 0.1, 0.6, 0.3, 0.9])), [0.15, 0.15, 0.45, 0.45, 0.9]
    )


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("majority-voting", {}),
        ("majority-voting", {"setting": "theorem"}),
        ("locality", {}),
        ("locality", {"setting": "theorem"}),
        ("locality-laws", {}),
        ("majority-laws", {}),
        ("sample-complexity", {"data": "locality"}),
        ("sample-complexity", {"setting": "theorem"}),
        ("gate-alignment", {}),
    ],
)
@pytest.mark.parametrize("quick", [True, False])
def test_settings_make_different_runs_that_can_be_read_again(name, given, quick):
    experiment = get_experiment(name)
    runs = experiment.runs(experiment.settings({**given, "quick": quick}))
    assert len({run.name for run in runs}) == len(runs)
    assert all(run_from_fields(run.fields()) == run for run in runs)
    trials = {run.trials for run in runs}
    if not quick and name not in ("gate-alignment", "locality-laws", "majority-laws"):
        assert max(trials) == 100


@pytest.mark.slow
def test_the_quick_locality_is_learned_by_every_trial(tmp_path):
    """To accuracy .99 and hinge .1, at near = 2 and beyond, where a gate is needed."""
    experiment = get_experiment("locality")
    settings = experiment.settings({"quick": True})
    runs = [run for run in experiment.runs(settings) if run.record == "ends"]
    results = sweep(runs, Store.create(tmp_path / "store"), workers=1)
    outcome = experiment.outcome(settings, results)
    rows = {row["near"]: row for row in outcome.numbers["grid"]}
    for near in (2, 3):
        assert rows[near]["reached"] == rows[near]["trials"] == 4
        assert rows[near]["last_accuracy"] >= 0.99
        assert rows[near]["last_loss"] <= 0.1
    assert outcome.claims[0].holds


def test_later_fields_leave_the_names_of_stored_runs_alone():
    """Names of runs that were stored before step sizes, optimizers and goals could be chosen."""
    stored = {
        "majority-voting": "697e08fdb6513b7d",
        "sample-complexity": "624df565ae3fef6a",
    }
    for name, first in stored.items():
        experiment = get_experiment(name)
        assert experiment.runs(experiment.settings({}))[0].name == first
    assert "optimizer" not in TINY.fields()
    changed = TINY.model_copy(update={"optimizer": "adam"})
    assert changed.fields()["optimizer"] == "adam"
    assert changed.name != TINY.name
    assert run_from_fields(changed.fields()) == changed


def test_theorem_settings_meet_width_and_noise():
    from keelback.dynamics import conditions

    for name in ("majority-voting", "locality"):
        experiment = get_experiment(name)
        for run in experiment.runs(experiment.settings({"setting": "theorem"})):
            found = conditions(
                run.pattern,
                width=run.width,
                noise=0.02,
                samples=None,
                step_size=run.step_size,
                epochs=run.epochs,
            )
            assert {c.name: c.holds for c in found}["width"]
            assert {c.name: c.holds for c in found}["noise"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("majority-voting", {}),
        ("locality", {}),
        ("locality-laws", {}),
        ("majority-laws", {}),
        ("sample-complexity", {}),
        ("sample-complexity", {"data": "locality"}),
    ],
)
def test_an_experiment_from_end_to_end(tmp_path, monkeypatch, name, given):
    """One trial a point of the quick size, through the store, to claims that JSON can hold."""
    experiment = get_experiment(name)
    settings = experiment.settings({"quick": True, "trials": 1, **given})
    monkeypatch.setattr(SampleThreshold, "steps", lambda self: 2)
    runs = [
        run.model_copy(update={"epochs": min(run.epochs, 40), "target": 0.9})
        for run in experiment.runs(settings)
    ]
    monkeypatch.setattr(type(experiment), "runs", lambda self, settings: runs)
    results = sweep(runs, Store.create(tmp_path / "store"), workers=1)
    outcome = experiment.outcome(settings, results)
    json.dumps(outcome.numbers, allow_nan=False)
    assert outcome.claims
    assert outcome.figures
    assert outcome.tables
    assert experiment.outcome(settings, results[:3]).experiment == outcome.experiment


def test_bad_settings_are_refused():
    experiment = get_experiment("majority-voting")
    with pytest.raises(InputError, match="trials"):
        experiment.settings({"trials": 0})
    with pytest.raises(InputError, match="setting"):
        experiment.settings({"setting": "other"})


@pytest.mark.parametrize("model", ["gated SSM", "softmax attention", "Mamba, 2 layers"])
def test_harness_measures_gates_before_and_after(model):
    run = HarnessTrials(
        model=model, pattern=TINY.pattern, samples=64, test_samples=32, width=4, steps=10, trials=2
    )
    (result,) = executed(run)
    layers = {"gated SSM": [1], "softmax attention": [None], "Mamba, 2 layers": [1, 2]}[model]
    assert [(row["seed"], row["layer"]) for row in result.history] == [
        (seed, layer) for seed in (0, 1) for layer in layers
    ]
    for row in result.history:
        if row["layer"] is not None:
            assert 0 <= row["auc"] <= 1
        if model == "gated SSM":
            assert row["auc_at_start"] == 0.5
    assert result.summary["parameters"] > 0


def test_the_trials_of_a_stack_are_one_row(tmp_path):
    experiment = get_experiment("gate-alignment")
    settings = experiment.settings({"trials": 3})
    model = "Mamba, 2 layers"
    stacks = [run for run in experiment.runs(settings) if run.model == model][:3]
    assert [run.first_seed for run in stacks] == [0, 1, 2]
    store = Store.create(tmp_path / "store")
    for run in stacks:
        rows = [
            {"seed": run.first_seed, "layer": layer, "steps_to_accuracy": 5, "best_accuracy": 1.0}
            | {"seconds": 1.0, "diverged": False, "relevant": 0.2, "irrelevant": 0.1}
            | {"auc": 0.4 + 0.1 * run.first_seed * layer, "auc_at_start": 0.45}
            for layer in (1, 2)
        ]
        store.add(run, RunResult({"trials": 1, "parameters": 7}, rows), {})
    numbers = experiment.outcome(settings, [store.get(run.name) for run in stacks]).numbers
    (row,) = numbers["models"]
    assert (row["model"], row["trials"], row["learned"]) == (model, 3, 3)
    assert [(gate["trials"], gate["rose"]) for gate in numbers["gates"]] == [(3, 2), (3, 2)]
    assert [gate["auc"] for gate in numbers["gates"]] == pytest.approx([0.5, 0.6])


def test_data_may_be_given_as_the_command_line_gives_it():
    experiment = get_experiment("sample-complexity")
    assert experiment.settings({"data": Path("locality").resolve()}).data == "locality"
    with pytest.raises(InputError, match="data"):
        experiment.settings({"data": "imdb"})


def test_thresholds_for_the_ranking_are_of_all_trainings_at_the_gap():
    run = SampleThreshold(**TINY.model_dump(exclude={"samples"}), samples=64, fewest=8)
    gap = run.pattern.gap
    tried = [
        {"samples": n, "trials": 10, "successes": 0, "ranked": r} for n, r in ((8, 0), (64, 9))
    ]
    grid = [
        {"gap": gap, "samples": 16, "trials": 10, "ranked": 1},
        {"gap": gap, "samples": 64, "trials": 10, "ranked": 9},
        {"gap": gap / 2, "samples": 32, "trials": 10, "ranked": 10},
    ]
    rows = _ranked([*tried, *_at_gap(grid, run)])
    assert [(row["samples"], row["successes"]) for row in rows] == [(8, 0), (16, 1), (64, 9)]
    assert threshold_row(run, rows)["threshold"] == pytest.approx(32)


def test_a_trial_that_ranks_well_says_when(tmp_path):
    run = TINY.model_copy(update={"target": 1e-3, "width": 20})
    ranked = outcomes_of(stored(tmp_path, run), "ranking")
    assert (ranked < 60).all()


@pytest.mark.parametrize("given", [{}, {"setting": "theorem"}, {"quick": True}])
def test_samples_for_pairs_are_those_to_have_learned_them(given):
    experiment = get_experiment("sample-complexity")
    settings = experiment.settings({"data": "locality", **given})
    for run in experiment.runs(settings):
        assert (run.target, run.target_accuracy) == (0.1, 0.99)
        assert (run.source, run.noise.scale) == ("fixed", 0)
    assert settings.scale.goal == "accuracy 0.99 and hinge 0.1"


def test_stages_of_a_course_are_the_first_rows_that_meet_them(tmp_path):
    run = TINY.model_copy(update={"record": "course", "stop_at_target": False})
    course = stored(tmp_path, run)
    rows = list(course.history())
    loss = sorted(row["test_loss"] for row in rows)[len(rows) // 3]
    found = {row["seed"]: row for row in first_rows(course, loss, 0.6)}
    assert found
    for seed, first in found.items():
        before = [row for row in rows if row["seed"] == seed and row["epoch"] < first["epoch"]]
        assert first["test_loss"] <= loss
        assert first["test_accuracy"] >= 0.6
        assert before
        assert all(row["test_loss"] > loss or row["test_accuracy"] < 0.6 for row in before)
    assert first_rows(course, -1.0) == []
    assert {row["epoch"] for row in last_rows(course)} == {run.epochs}


@pytest.mark.slow
def test_descent_closes_the_gate_for_irrelevant_features_and_opens_it_for_near_1(tmp_path):
    """The quick size of the paper's figure 4, by plain gradient descent on the population."""
    experiment = get_experiment("locality-laws")
    settings = experiment.settings({"quick": True, "trials": 1})
    runs = [run for run in experiment.runs(settings) if run.record == "course"]
    results = sweep(runs, Store.create(tmp_path / "store"), workers=1)
    outcome = experiment.outcome(settings, results)
    judged = {claim.statement[:22]: claim.holds for claim in outcome.claims}
    assert judged["near = 2, at loss 0.5:"]
    assert judged["near = 1, at loss 0.5:"]
    assert [figure.name for figure in outcome.figures] == ["locality-gate-quick"]

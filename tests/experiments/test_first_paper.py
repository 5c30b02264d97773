"""The experiments on arXiv 2502.01473, at sizes that take seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keelback.data import get_task
from keelback.experiments import get_experiment
from keelback.experiments._shared.scores import VERDICTS
from keelback.experiments.first_paper.length_independence import _claims
from keelback.experiments.length.length_transfer_run import LengthTransferRun
from keelback.models import model_config
from keelback.outcome import Outcome
from keelback.sweeps import Store
from keelback.sweeps.training_run import TrainingRun
from keelback.training import accuracy

Reproduce = Callable[..., Outcome]


@pytest.fixture
def reproduce(tmp_path: Path) -> Reproduce:
    """Run an experiment in this process and give its outcome."""

    def run(name: str, **given: Any) -> Outcome:
        experiment = get_experiment(name)
        settings = experiment.settings(given)
        runs = experiment.runs(settings)
        store = Store.create(tmp_path / "store")
        groups: dict[str, list[Any]] = {}
        for item in runs:
            groups.setdefault(item.batch_key(), []).append(item)
        for group in groups.values():
            for done, result in type(group[0]).execute(group, lambda share: None):
                if done not in store:
                    store.add(done, result, {})
        return experiment.outcome(settings, [store.get(item.name) for item in runs])

    return run


def test_a_model_is_scored_at_other_lengths_on_left_padded_data() -> None:
    [run, *_] = get_experiment("train-short-test-long").runs(
        get_experiment("train-short-test-long").settings(
            {"task": "listops", "seq_len": (12,), "factors": (1, 2), "seeds": 1, "epochs": 1}
        )
    )
    assert isinstance(run, LengthTransferRun)
    assert run.task_settings["padding_side"] == "left"
    [(_, result)] = LengthTransferRun.execute([run], lambda share: None)
    model = model_config(run.model).build()
    model.load_state_dict(result.weights)
    assert result.summary["test_accuracy_at_12"] == result.summary["test_accuracy"]
    longer = get_task("listops", **{**run.task_settings, "seq_len": 24}).split("test")
    assert (longer.tokens[:, -1] != 15).all(), "the last position is a token of the tree"
    assert (longer.tokens[:, 0] == 15).any()
    assert result.summary["test_accuracy_at_24"] == accuracy(model, longer)


def test_train_short_test_long(reproduce: Reproduce) -> None:
    outcome = reproduce(
        "train-short-test-long", task="majority", seq_len=(6,), factors=(1, 4), seeds=2, epochs=1
    )
    rows: Any = outcome.numbers["rows"]
    assert {(row["start"], row["test_length"]) for row in rows} == {
        (start, length)
        for start in ("free, start 0", "free, start +0.1", "stable")
        for length in (6, 24)
    }
    assert all(row["change"]["pairs"] == 2 for row in rows if row["test_length"] == 24)
    assert len(outcome.claims) == 3


def test_stable_by_construction_counts_what_the_free_one_loses(reproduce: Reproduce) -> None:
    outcome = reproduce(
        "stable-by-construction", task="majority", seq_len=(6, 8), seeds=2, epochs=1
    )
    numbers: Any = outcome.numbers
    assert numbers["attempted"] == {"free": 4, "stable": 4}
    assert numbers["stable_less_free"]["test"]["pairs"] == 2
    assert all(row["stable_largest_s_A"] < 0 for row in numbers["rows"])


def test_stable_by_construction_shares_the_free_runs(reproduce: Reproduce) -> None:
    given = {"task": "majority", "seq_len": (6,), "seeds": 2}
    both, sweep = get_experiment("stable-by-construction"), get_experiment("length-independence")
    names = {run.name for run in both.runs(both.settings(given))}
    assert {run.name for run in sweep.runs(sweep.settings(given))} < names


def test_baselines_are_matched_and_paired(reproduce: Reproduce) -> None:
    outcome = reproduce("baselines", task="majority", seq_len=(6,), seeds=2, epochs=1)
    rows: Any = outcome.numbers["rows"]
    sizes = {row["model"]: row["parameters"] for row in rows}
    assert len(sizes) == 6
    assert max(sizes.values()) < 1.2 * min(sizes.values())
    assert set(outcome.numbers["less_selective_ssm"]) == set(sizes) - {"selective SSM"}  # type: ignore[call-overload]


def test_baselines_train_on_the_data_of_the_selective_ssm() -> None:
    experiment = get_experiment("baselines")
    runs = experiment.runs(experiment.settings({"task": "listops", "seeds": 1}))
    first = [run for run in runs if isinstance(run, TrainingRun)][:6]
    assert len({str(run.task_settings) for run in first}) == 1
    assert len({run.model["kind"] for run in first}) == 5


def test_the_stack_is_larger_than_the_block_and_sees_the_same_trees(reproduce: Reproduce) -> None:
    outcome = reproduce("mamba-stack", quick=True, seq_len=(12,), epochs=1, d_model=16, n_layers=2)
    rows: Any = outcome.numbers["rows"]
    assert [row["model"] for row in rows] == ["mamba-stack", "selective-ssm"]
    assert rows[0]["parameters"] > rows[1]["parameters"]
    assert 0 < rows[0]["test"] < 1


def test_the_ends_of_each_start_are_counted(reproduce: Reproduce) -> None:
    outcome = reproduce(
        "stability-margin", task="majority", seq_len=(6,), abscissas=(-0.1, 0.1), seeds=2, epochs=1
    )
    [counts] = [table for table in outcome.tables if table.name.startswith("ends-")]
    starts = [(row["seq_len"], row["abscissa"]) for row in counts.rows]
    assert starts == [(6, 0.1), (250, -0.1), (250, 0.1)]
    assert all(row["trained"] + row["failed"] + row["overflowed"] == 2 for row in counts.rows)
    assert [row["published"] for row in counts.rows] == ["", "1 trained", "1 trained"]


def test_norms_in_another_precision_are_other_runs_with_a_label_of_their_own() -> None:
    experiment = get_experiment("length-independence")
    given = {"task": "majority", "seq_len": (6,), "seeds": 1}
    plain = experiment.settings(given)
    other = experiment.settings({**given, "norm_precision": "float64"})
    assert (plain.label, other.label) == ("majority", "majority-float64-norm")
    assert (plain.described, other.described) == ("majority", "majority, norms in float64")
    assert [run.name for run in experiment.runs(plain)] != [
        run.name for run in experiment.runs(other)
    ]


@pytest.mark.parametrize("name", ["length-independence", "stability-margin"])
def test_an_outcome_of_runs_that_all_diverged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = get_experiment(name)
    settings = experiment.settings({"task": "majority", "seq_len": (8,), "seeds": 2, "epochs": 1})
    runs = experiment.runs(settings)
    [(_, result)] = type(runs[0]).execute(runs[:1], lambda share: None)
    lost = {
        "loss": None, "diverged": True, "diverged_epoch": 1, "diverged_step": 2,
        "diverged_tensor": "y", "train_accuracy": None, "test_accuracy": None,
        "fresh_accuracy": None,
    }  # fmt: skip
    store = Store.create(tmp_path / "store")
    for each in runs:
        store.add(each, type(result)({**result.summary, **lost}, result.history), {})
    outcome = experiment.outcome(settings, [store.get(each.name) for each in runs])
    assert any(table.name.startswith("divergences-") for table in outcome.tables)


def test_ones_and_tokens_are_drawn_without_a_run(reproduce: Reproduce) -> None:
    outcome = reproduce("data-histograms", task="majority", seq_len=20)
    histograms: Any = outcome.numbers["histograms"]
    assert sum(sum(h["counts"]) for h in histograms) == 2000
    assert len(outcome.figures) == 1


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [(0.001, 0.02, False), (-0.02, 0.02, None), (-0.01, 0.009, True), (-0.05, -0.04, True)],
)
def test_a_gap_that_may_grow_by_a_point_a_doubling_is_not_called_constant(
    lower: float, upper: float, verdict: bool | None
) -> None:
    slope = {"per_doubling": (lower + upper) / 2, "lower": lower, "upper": upper}

    (claim,) = _claims({"gap": slope}, [{"seq_len": 25}, {"seq_len": 400}])

    assert claim.holds is verdict
    assert claim.verdict == VERDICTS[verdict]

"""`keelback runs`: listing, filtering, comparing, exporting, deleting, executing again."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from keelback.experiments._shared.presets import LENGTH_INDEPENDENCE, preset, selective_ssm_run
from keelback.sweeps import RunResult, Store, TrainingRun, sweep
from keelback.sweeps.executor import ThisProcess

Cli = Callable[..., tuple[int, str, str]]


def training(seq_len: int, seed: int) -> TrainingRun:
    majority = preset(LENGTH_INDEPENDENCE, "majority")
    return selective_ssm_run("majority", majority, seq_len=seq_len, seed=seed, epochs=1)


SCORES = {(5, 1): 0.5, (5, 2): 0.75, (10, 1): None}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three runs, made up but for their configurations; the last diverged."""
    made = Store.create(tmp_path / "s")
    for (seq_len, seed), score in SCORES.items():
        summary = {"test_accuracy": score, "diverged": score is None, "epochs": 1}
        history = [{"epoch": epoch, "loss": 1.0 / (epoch + seed)} for epoch in range(2)]
        made.add(training(seq_len, seed), RunResult(summary, history), {"keelback": "0"})
    return made


def test_the_list_shows_what_differs(cli: Cli, store: Store) -> None:
    code, out, err = cli("runs", store.directory)
    assert (code, err) == (0, "")
    heading, _, *rows = [line.split() for line in out.splitlines() if line.strip()]
    assert heading == ["name", "seq_len", "data_seed", "seed", "test_accuracy", "diverged"]
    assert len(rows) == 3
    assert {row[0] for row in rows} == {training(*key).name for key in SCORES}


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], {(5, 1), (5, 2), (10, 1)}),
        (["seq_len=5"], {(5, 1), (5, 2)}),
        (["task_settings.seq_len != 5"], {(10, 1)}),
        (["test_accuracy>=0.75"], {(5, 2)}),
        (["test_accuracy<1", "seed=1"], {(5, 1)}),
        (["diverged=true"], {(10, 1)}),
        (["test_accuracy=none"], {(10, 1)}),
        (["task=listops"], set()),
        (["made_by.keelback=0"], {(5, 1), (5, 2), (10, 1)}),
        (["made_by.keelback!=0"], set()),
    ],
)
def test_conditions_select(
    cli: Cli, store: Store, conditions: list[str], expected: set[tuple[int, int]]
) -> None:
    flags = [part for condition in conditions for part in ("--where", condition)]
    code, out, _ = cli("runs", store.directory, "--json", *flags)
    assert code == 0
    found = {(row["task_settings.seq_len"], row["seed"]) for row in json.loads(out)}
    assert found == expected


def test_sorting_puts_the_empty_last(cli: Cli, store: Store) -> None:
    for flag, expected in (("test_accuracy", [0.5, 0.75, None]), ("-seq_len", [10, 5, 5])):
        _, out, _ = cli("runs", store.directory, "--json", "--sort", flag)
        column = "test_accuracy" if flag == "test_accuracy" else "task_settings.seq_len"
        assert [row[column] for row in json.loads(out)] == expected


def test_comparing_names_only_what_differs(cli: Cli, store: Store) -> None:
    one, two = training(5, 1).name, training(5, 2).name
    flags = ("--compare", one[:8], "--compare", two)
    code, out, _ = cli("runs", store.directory, *flags, "--json")
    assert code == 0
    assert json.loads(out) == {
        "task_settings.data_seed": {one: 1, two: 2},
        "seed": {one: 1, two: 2},
        "test_accuracy": {one: 0.5, two: 0.75},
    }
    code, out, _ = cli("runs", store.directory, *flags)
    assert "0.75" in out
    assert "epochs" not in out


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_exports_hold_every_run(cli: Cli, store: Store, tmp_path: Path, suffix: str) -> None:
    read = {"csv": pl.read_csv, "parquet": pl.read_parquet, "json": pl.read_json}[suffix]
    path = tmp_path / f"out.{suffix}"
    code, out, _ = cli("runs", store.directory, "--sort", "-test_accuracy", "--export", path)
    assert (code, out) == (0, "")
    table = read(path)
    assert table["test_accuracy"].to_list() == [0.75, 0.5, None]
    assert table["task_settings.seq_len"].to_list() == [5, 5, 10]
    code, _, _ = cli(
        "runs", store.directory, "--where", "seed=2", "--history", "--export", path
    )  # fmt: skip
    history = read(path)
    assert history["epoch"].to_list() == [0, 1]
    assert history["loss"].to_list() == pytest.approx([1 / 2, 1 / 3])
    assert sorted(item.name for item in tmp_path.iterdir()) == [path.name, "s"]


def test_a_deleted_run_is_gone_and_the_others_stay(cli: Cli, store: Store) -> None:
    doomed = training(5, 1).name
    code, out, _ = cli("runs", store.directory, "--delete", doomed[:6])
    assert (code, out) == (0, f"deleted {doomed}\n")
    assert store.names() == sorted({training(5, 2).name, training(10, 1).name})
    assert len(list((store.directory / "runs").iterdir())) == 2


@pytest.mark.slow
def test_a_run_executed_again_has_the_same_numbers(cli: Cli, tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    [before] = sweep([training(5, 1)], store, executor=ThisProcess())
    stamp = (before.folder / "run.json").stat().st_mtime_ns
    code, out, _ = cli("runs", tmp_path, "--rerun", before.name, "--json")
    assert code == 0
    assert json.loads(out) == {"deleted": [], "executed": [before.name]}
    after = store.get(before.name)
    assert (after.folder / "run.json").stat().st_mtime_ns > stamp
    assert after.summary == before.summary
    assert after.history() == before.history()


def test_damaged_runs_are_told_and_can_be_deleted(cli: Cli, store: Store) -> None:
    name = training(5, 2).name
    (store.directory / "runs" / name / "history.parquet").unlink()
    code, out, err = cli("runs", store.directory, "--json")
    assert code == 0
    assert len(json.loads(out)) == 2
    assert "damaged: " in err
    assert "history.parquet is missing" in err
    code, _, _ = cli("runs", store.directory, "--delete", name)
    assert code == 0
    assert name not in store.names()


def test_an_edited_configuration_is_told(cli: Cli, store: Store) -> None:
    path = store.directory / "runs" / training(5, 2).name / "run.json"
    path.write_text(path.read_text().replace('"seed": 2', '"seed": 3'))
    _, out, err = cli("runs", store.directory, "--json")
    assert len(json.loads(out)) == 2
    assert "was edited" in err


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--where seq_len", "is no condition"),
        ("--where seqlen=5", "did you mean seq_len?"),
        ("--where keelback>", "is no condition"),
        ("--columns lenght", "no run has a column lenght"),
        ("--sort nothing_like_it", "no run has a column"),
        ("--compare zzz --compare yyy", "has no run zzz"),
        ("--delete zzz", "has no run zzz"),
        ("--rerun zzz", "has no run zzz"),
        ("--export out.xlsx", ".csv, .parquet, .json"),
        ("--history", "add --export FILE"),
        ("--where seq_len>abc", "seq_len>abc never holds"),
        ("--where seq_len=abc", "holds numbers, and 'abc' is none"),
        ("--where test_accuracy>nan", "above or below NaN"),
        ("--where task>5", "holds texts, which have no order with 5"),
        ("--compare a --compare b --where seed=1", "--where has no effect beside --compare"),
        ("--delete a --where seed=1", "--where has no effect beside --delete"),
        ("--delete a --export runs.csv", "--export has no effect beside --delete"),
        ("--rerun a --sort seed", "--sort has no effect beside --rerun"),
        ("--json --columns seed", "--columns has no effect beside --json"),
        ("--export runs.csv --columns seed", "--columns has no effect beside --export"),
    ],
)
def test_wrong_flags_exit_2_and_change_nothing(
    cli: Cli, store: Store, flags: str, complaint: str
) -> None:
    before = sorted(store.directory.rglob("*"))
    code, out, err = cli("runs", store.directory, *flags.split())
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1
    assert sorted(store.directory.rglob("*")) == before


@pytest.mark.parametrize("option", ["--delete", "--rerun", "--compare"])
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_name_is_no_run(cli: Cli, store: Store, option: str, empty: str) -> None:
    """An unset variable of a shell must not delete the only run."""
    for name in store.names()[1:]:
        store.delete(name)
    code, out, err = cli("runs", store.directory, option, empty)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert ("the name of a run is empty" if empty else f"the value of {option} is empty") in err
    assert len(store.names()) == 1


def test_one_run_is_not_compared_with_itself(cli: Cli, store: Store) -> None:
    name = training(5, 1).name
    code, _, err = cli("runs", store.directory, "--compare", name, "--compare", name)
    assert code == 2
    assert "two runs" in err


def test_an_export_that_cannot_be_written_is_one_line(
    cli: Cli, store: Store, tmp_path: Path
) -> None:
    code, _, err = cli("runs", store.directory, "--export", tmp_path / "no" / "out.csv")
    assert code == 1
    assert "cannot write" in err
    assert err.count("\n") == 1

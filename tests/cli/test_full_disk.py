"""Nothing half written: a file that may not grow, a page of another program, wrong input."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keelback.files import adding_to, made, write_table

Cli = Callable[..., tuple[int, str, str]]
FEW = ["--set", "task_settings.n_train=32", "--set", "task_settings.n_test=32"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from keelback.cli import main

    folder = tmp_path_factory.mktemp("sweep")
    train = ["train", "--task", "majority", "--seq-len", "6", "--epochs", "1", *FEW]
    with pytest.raises(SystemExit) as ended:
        main([*train, "--out", str(folder / "runs")])
    assert ended.value.code == 0
    return folder / "runs"


def limited(arguments: list[str], size: int) -> tuple[int, str]:
    """Run a command that may write no file of more than `size` bytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    # Numba would be kept from its cache, too.
    environment = {**os.environ, "NUMBA_DISABLE_CACHING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "keelback", "--quiet", *arguments],
        preexec_fn=limit, capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_an_export_that_does_not_fit_is_named(suffix: str, sweep: Path, tmp_path: Path) -> None:
    code, err = limited(["runs", str(sweep), "--export", str(tmp_path / f"x{suffix}")], 100)
    assert (code, err) == (1, f"error: cannot write {tmp_path}/x{suffix}: File too large\n")
    assert list(tmp_path.iterdir()) == []


def test_what_stdout_cannot_take_is_an_error(sweep: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "keelback", "runs", str(sweep), "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device")
    assert done.stderr.count("\n") == 1


def test_a_report_that_does_not_fit_leaves_nothing(sweep: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from keelback.outcome import Column, Outcome, Table
    from keelback.report import write_report

    table = Table("one", "", [Column("a", "A")], [{"a": 1}])
    outcome = Outcome(experiment="e", title="t", summary="s", verdict="v", tables=[table])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(RuntimeError, match=r"could not write .*report\.html': File too large"):
            write_report([outcome], tmp_path / "deep" / "report", {"command": "none"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_the_page_of_another_program_stays(sweep: Path, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "report.html").write_text("mine")
    for command in (
        ["reproduce", "length-independence", "--quick", "--out", tmp_path / "new", "--report-to"],
        ["byte-lm", "--out"],
        ["audit", "nothing", "--out"],
    ):
        code, _, err = cli(*command, tmp_path)
        assert code == 2
        assert (
            err
            == f"error: '{tmp_path}/report.html' is not a page of keelback; name another folder\n"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "mine"


def test_wrong_input_leaves_no_new_folder(tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "a" / "b"
    code, _, err = cli("train", "--task", "majority", "--seq-len", str(10**12), "--out", out)
    assert code == 2
    assert err.startswith("error: the bits of both splits would take ")
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_that_was_there_stays_where_input_is_wrong(sweep: Path, cli: Cli) -> None:
    before = sorted(sweep.rglob("*"))
    code, _, _ = cli("train", "--task", "majority", "--seq-len", "1000000000000", "--out", sweep)
    assert code == 2
    assert sorted(sweep.rglob("*")) == before


def test_folders_are_made_and_taken_back(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    newer = tmp_path / "old" / "new" / "newer"

    def fail() -> None:
        with made(newer):
            assert newer.is_dir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list((tmp_path / "old").iterdir()) == []


def test_files_are_added_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "kept").write_text("kept")

    def fail() -> None:
        with adding_to(tmp_path) as partial:
            (partial / "a").write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "a").read_text() == "old"
    with adding_to(tmp_path) as partial:
        (partial / "a").write_text("new")
        (partial / "b").mkdir()
        (partial / "b" / "c").write_text("c")
    assert {p.name: p.read_text() for p in tmp_path.rglob("*") if p.is_file()} == {
        "a": "new",
        "kept": "kept",
        "c": "c",
    }


def test_the_current_folder_can_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (Path(), Path("..", tmp_path.name)):
        with adding_to(folder) as partial:
            (partial / "a").write_text("a")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_table_is_written_as_its_name_says(tmp_path: Path) -> None:
    import polars as pl

    table = pl.DataFrame({"a": [1, 2]})
    for suffix, read in ((".csv", pl.read_csv), (".json", pl.read_json), (".x", pl.read_parquet)):
        write_table(tmp_path / f"t{suffix}", table)
        assert read(tmp_path / f"t{suffix}").equals(table)

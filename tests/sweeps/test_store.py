"""The store: names, atomic writes, what it refuses."""

import json
import multiprocessing
import os
from pathlib import Path

import pytest
from trivial_run import TrivialRun

from keelback.errors import InputError
from keelback.sweeps import RunResult, Store, sweep


def add(store: Store, number: int) -> TrivialRun:
    run = TrivialRun(number=number)
    store.add(run, RunResult({"double": 2 * number}, [{"epoch": 0, "loss": 0.5}]), {"who": "test"})
    return run


def test_what_is_added_comes_back(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    run = add(store, 3)
    again = Store.open(tmp_path / "s")
    assert run in again
    found = again.get(run.name)
    assert found.fields == {**run.fields()}
    assert found.summary == {"double": 6}
    assert found.provenance == {"who": "test"}
    assert found.history() == [{"epoch": 0, "loss": 0.5}]
    assert [stored.name for stored in again] == [run.name]


def test_a_name_is_a_function_of_the_whole_configuration() -> None:
    names = {TrivialRun(number=n, seconds=s).name for n in range(20) for s in (0.0, 0.5)}
    assert len(names) == 40
    assert TrivialRun(number=1).name == TrivialRun(number=1, seconds=0.0).name


def test_adding_twice_keeps_the_first(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    run = add(store, 1)
    store.add(run, RunResult({"double": -1}), {})
    assert store.get(run.name).summary == {"double": 2}
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_a_half_written_run_is_not_there(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    run = TrivialRun(number=1)
    (tmp_path / "runs" / f".{run.name}.abc").mkdir()
    (tmp_path / "runs" / f".{run.name}.abc" / "run.json").write_text("{}")
    assert run not in store
    assert list(store) == []


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with pytest.raises(ValueError, match="Out of range"):
        store.add(TrivialRun(number=1), RunResult({"loss": float("nan")}), {})
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", '{"format": "keelback-store"}', '{"format": "other", "version": 1}'],
)
def test_an_edited_manifest_is_refused(tmp_path: Path, manifest: str) -> None:
    Store.create(tmp_path)
    (tmp_path / "manifest.json").write_text(manifest)
    for opening in (Store.create, Store.open):
        with pytest.raises(InputError, match=r"manifest\.json is not a keelback manifest"):
            opening(tmp_path)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused_by_number(tmp_path: Path, version: object) -> None:
    Store.create(tmp_path)
    manifest = {"format": "keelback-store", "version": version}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="reads version 1"):
        Store.open(tmp_path)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        Store.create(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "mine"


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="holds no keelback sweep"):
        Store.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match=r"cannot write|not writable"):
        Store.create(tmp_path / "s")


def test_a_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        Store.create(tmp_path / "f" / "s")


def test_a_damaged_run_is_named_with_its_cure(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    run = add(store, 1)
    (tmp_path / "runs" / run.name / "run.json").write_text('{"run": {')
    with pytest.raises(InputError, match=r"delete .* to run it again"):
        store.get(run.name)


def test_an_edited_result_is_refused_and_a_later_note_on_its_provenance_is_not(
    tmp_path: Path,
) -> None:
    store = Store.create(tmp_path)
    run = add(store, 1)
    path = tmp_path / "runs" / run.name / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "provenance": {"who": "test", "commit": "abc"}}))
    assert store.get(run.name).provenance["commit"] == "abc"
    for value in (3, "two", None):
        path.write_text(json.dumps({**record, "summary": {"double": value}}))
        with pytest.raises(InputError, match=r"was edited: its summary .* delete .* to run it"):
            store.get(run.name)


def test_runs_of_before_there_was_a_digest_are_read(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    run = add(store, 1)
    path = tmp_path / "runs" / run.name / "run.json"
    record = json.loads(path.read_text())
    del record["digest"]
    path.write_text(json.dumps(record))
    assert store.get(run.name).summary == {"double": 2}


def test_a_run_without_its_record_is_named_with_its_cure(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    run = add(store, 1)
    (tmp_path / "runs" / run.name / "run.json").unlink()
    assert run in store
    with pytest.raises(InputError, match=r"run.json is missing.* delete .* to run it again"):
        store.get(run.name)


def _claim_in_a_process(directory: str, key: str) -> bool:
    with Store(Path(directory)).claim(key) as claimed:
        return claimed


def test_a_batch_is_claimed_by_one_process_at_a_time(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with store.claim("a") as claimed:
            assert claimed
            assert not pool.apply(_claim_in_a_process, (str(tmp_path), "a"))
            assert pool.apply(_claim_in_a_process, (str(tmp_path), "b"))
        assert pool.apply(_claim_in_a_process, (str(tmp_path), "a"))


def test_the_folder_of_a_run_is_as_open_as_any_other(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    sweep([TrivialRun(number=1)], store, workers=1)
    (name,) = store.names()
    assert (tmp_path / "runs" / name).stat().st_mode == (tmp_path / "runs").stat().st_mode

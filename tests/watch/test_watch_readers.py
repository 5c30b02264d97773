"""What a snapshot says of stores and of trainers' folders, whole, growing, damaged and hostile."""

import io
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from keelback.errors import InputError
from keelback.experiments import get_experiment
from keelback.experiments.requests import save_request
from keelback.models import SelectiveSSMConfig
from keelback.sweeps import Run, RunResult, Store
from keelback.sweeps.run import name_of
from keelback.training import Checkpoint, Recipe, train
from keelback.watch import Snapshot, reader_of, render_page, render_terminal
from keelback.watch._pace import Work, busy_seconds, seconds_left

HOSTILE = "<script>window.pwned=1</script>\x1b[31m[bold]\u202e"
NAME = "length-independence"
GIVEN = {"task": "majority", "quick": True, "seeds": 2, "seq_len": "5,10", "epochs": 1}


def planned(store: Store) -> list[Run]:
    """The runs of an experiment whose note lies in the store."""
    experiment = get_experiment(NAME)
    settings = experiment.settings(GIVEN)
    runs = list(experiment.runs(settings))
    save_request(store, NAME, settings, runs, "keelback reproduce ...")
    return runs


def finish(
    store: Store, run: Run, ended: float = 0.0, seconds: float = 10.0, diverged: bool = False
) -> None:
    score = None if diverged else 0.75
    summary = {"test_accuracy": score, "diverged": diverged, "epochs": 1, "diverged_epoch": 1}
    history = [{"epoch": epoch, "loss": 2.0 - epoch, "s_A": None} for epoch in range(2)]
    date = datetime.fromtimestamp(ended, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    store.add(run, RunResult(summary, history), {"date": date, "seconds_of_batch": seconds})


@contextmanager
def claimed_elsewhere(store: Store, key: str) -> Iterator[None]:
    """Another process holds the claim of a batch for as long as the block runs."""
    ready, told = os.pipe()
    end, ask = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ask)
        with store.claim(key) as claimed:
            os.write(told, b"y" if claimed else b"n")
            os.read(end, 1)
        os._exit(0)
    os.close(end)
    try:
        assert os.read(ready, 1) == b"y"
        yield
    finally:
        os.close(ask)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(told)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s")


def test_a_store_that_grows_is_followed(store: Store) -> None:
    runs = planned(store)
    reader = reader_of(store.directory)
    seen = reader.read()
    assert (seen.state, seen.left) == ("stopped", "no estimate before a run has finished")
    assert [(plan.planned, plan.finished) for plan in seen.plans] == [(4, 0)]
    costs = [run.cost() for run in runs]
    now = time.time()
    with claimed_elsewhere(store, runs[2].batch_key()):
        finish(store, runs[0], now - 10, seconds=20.0)
        finish(store, runs[1], now, seconds=10.0, diverged=True)
        seen = reader.read()
        assert seen.state == "under way"
        assert seen.line.startswith("under way: 2 of 4 runs finished, 1 of them diverged, 1 batch")
        [plan] = seen.plans
        alike = sum(run.batch_key() == runs[2].batch_key() for run in runs[2:])
        assert (plan.finished, plan.survived, plan.under_way) == (2, 1, alike)
        expected = sum(costs[2:]) * 30.0 / sum(costs[:2])
        assert seen.seconds_left is not None
        assert expected - (time.time() - now) <= seen.seconds_left + 1.0 <= expected + 2.0
    for run in runs[2:]:
        finish(store, run, now)
    seen = reader.read()
    assert (seen.state, seen.line) == (
        "finished",
        "all 4 runs finished, 1 of them diverged; nothing is under way",
    )
    by_setting = {group.setting: group for group in seen.groups}
    assert set(by_setting) == {"seq_len 5", "seq_len 10"}
    assert sum(group.survived for group in seen.groups) == 3
    assert by_setting["seq_len 10"].scores == {"test_accuracy": 0.75}
    assert seen.runs[0].curves == {"loss": [(0.0, 2.0), (1.0, 1.0)]}
    assert [alarm.where for alarm in seen.alarms] == [runs[1].name]


def test_the_time_left_is_known_where_the_data_lie_outside_the_store(
    store: Store, tmp_path: Path
) -> None:
    """The data are gone when the store is looked at: they are not read."""
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        rows = "".join(f"( ( ( [MAX 1 ) {i % 10} ) ] )\t{i % 10}\n" for i in range(1000))
        (data / f"{split}.tsv").write_text(f"Source\tTarget\n{rows}")
    experiment = get_experiment(NAME)
    settings = experiment.settings(GIVEN | {"task": "listops", "data": str(data)})
    runs = list(experiment.runs(settings))
    save_request(store, NAME, settings, runs, "keelback reproduce ...")
    for file in data.iterdir():
        file.unlink()
    finish(store, runs[0], seconds=20.0)
    seen = reader_of(store.directory).read()
    [plan] = seen.plans
    assert (plan.planned, plan.finished, seen.alarms) == (len(runs), 1, [])
    left = sum(run.cost() for run in runs[1:]) * 20.0 / runs[0].cost()
    assert seen.seconds_left == pytest.approx(left)
    assert {group.setting for group in seen.groups} == {"seq_len 5", "seq_len 10"}

    note = store.directory / "requests" / f"{NAME}-listops.json"
    record = json.loads(note.read_text())
    for cost in (math.nan, -1.0, HOSTILE):
        record["runs"][0]["cost"] = cost
        note.write_text(json.dumps(record))
        [alarm] = reader_of(store.directory).read().alarms
        assert "the cost of a run is" in alarm.message
    del record["runs"]
    note.write_text(json.dumps(record))
    [alarm] = reader_of(store.directory).read().alarms
    assert alarm.message.endswith("its runs are not listed, and its data lie elsewhere")


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), min_size=1),
    st.integers(1, 9),
)
def test_the_pace_counts_seconds_in_which_anything_ran(
    spans: list[tuple[int, int]], left: int
) -> None:
    works = [Work(2.0, float(start + length), float(length)) for start, length in spans]
    busy = len({second for start, length in spans for second in range(start, start + length)})
    assert busy_seconds(works) == pytest.approx(busy)
    found = seconds_left(works, float(left), now=100.0, under_way=False)
    expected = left * busy / (2.0 * len(works)) if busy else None
    assert found is None if expected is None else found == pytest.approx(expected)


def test_what_is_damaged_or_leads_out_is_named_and_not_read(store: Store, tmp_path: Path) -> None:
    runs = planned(store)
    for run in runs:
        finish(store, run)
    folders = [store.directory / "runs" / run.name for run in runs]
    (folders[0] / "run.json").write_text("{")
    folders[1].rename(tmp_path / "elsewhere")
    folders[1].symlink_to(tmp_path / "elsewhere")
    history = folders[2] / "history.parquet"
    history.rename(tmp_path / "other.parquet")
    history.symlink_to(tmp_path / "other.parquet")
    size = (folders[3] / "history.parquet").stat().st_size
    (folders[3] / "history.parquet").write_bytes(b"PAR1" * (size // 4 + 1))
    os.truncate(folders[3] / "history.parquet", size)
    (store.directory / "requests" / "cut.json").write_text('{"experiment": "')
    (store.directory / "requests" / "out.json").symlink_to(tmp_path / "other.parquet")
    note = json.loads((store.directory / "requests" / f"{NAME}-majority.json").read_text())
    note["settings"]["data"] = str(tmp_path)
    (store.directory / "requests" / "data.json").write_text(json.dumps(note))
    seen = reader_of(store.directory).read()
    said = {alarm.where: alarm.message for alarm in seen.alarms}
    assert said.keys() == {run.name for run in runs} | {"cut", "out", "data"}
    assert "not counted" in said[runs[0].name]
    assert {run.name for run in seen.runs} == {runs[2].name, runs[3].name}
    assert not any(run.curves for run in seen.runs)
    assert seen.state == "stopped"  # two of the four cannot be read


def hostile_run(store: Store) -> None:
    """A record that is whole, made by someone else."""
    fields = {"kind": HOSTILE, HOSTILE: [HOSTILE]}
    summary = {"loss": math.inf, "diverged": True, "diverged_tensor": HOSTILE, "epochs": HOSTILE}
    folder = store.directory / "runs" / name_of(fields)
    folder.mkdir()
    rows = [{"epoch": 0, HOSTILE: 1.0, "loss": 1e308}, {"epoch": 1, HOSTILE: 2.0, "loss": -1e308}]
    pl.DataFrame(rows).write_parquet(folder / "history.parquet")
    made_by = {"date": HOSTILE, "seconds_of_batch": HOSTILE}
    record = {"run": fields, "summary": summary, "provenance": made_by}
    (folder / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize("name", ["manifest.json", "lock"])
def test_a_store_whose_own_files_lead_out_is_refused(
    store: Store, tmp_path: Path, name: str
) -> None:
    (tmp_path / "other").write_bytes((store.directory / "manifest.json").read_bytes())
    (store.directory / name).unlink(missing_ok=True)
    (store.directory / name).symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match=f"{name} leads out of"):
        reader_of(store.directory).read()


def test_hostile_texts_are_shown_as_texts(store: Store) -> None:
    hostile_run(store)
    seen = reader_of(store.directory).read()
    assert any("script" in alarm.message for alarm in seen.alarms)
    page = render_page(seen)
    assert page.count("<script") == 1  # its own
    assert page.count("&lt;script&gt;window") >= 2
    assert not any(c in page for c in "\x1b\u202e")
    console = Console(width=200, file=io.StringIO())
    console.print(render_terminal(seen))
    shown = console.file.getvalue()
    assert "[bold]" in shown
    assert not any(c in shown for c in "\x1b\u202e")
    json.dumps(seen.to_json(), allow_nan=False)


def test_a_training_is_read_from_its_checkpoint(store: Store, tmp_path: Path) -> None:
    """Of real checkpoints, one after each epoch."""
    from keelback import get_task

    path = store.directory / "checkpoints" / "0123456789abcdef.safetensors"
    split = get_task("majority", seq_len=5, n_train=20).split("train")
    reader, seen = reader_of(store.directory, epochs=4), []
    train(
        [SelectiveSSMConfig(vocab_size=2).build()],
        [split],
        Recipe(epochs=4),
        [1],
        checkpoint=Checkpoint(path),
        on_epoch=lambda epoch, _: seen.append(reader.read()),
    )
    assert [snapshot.runs[0].epoch for snapshot in seen] == [1, 2, 3, 3]
    assert [x for x, _ in seen[2].runs[0].curves["loss"]] == [1.0, 2.0, 3.0]
    assert seen[0].left == "no estimate before the next checkpoint is written"
    assert seen[2].seconds_left is not None
    assert "left" in seen[2].left
    assert "1 training kept after epoch 3" in seen[3].line
    path.write_bytes(b"\xff" * 30)
    [alarm] = reader.read().alarms
    assert path.name in alarm.message


def trainer_folder(folder: Path) -> None:
    """What the Trainer of transformers leaves, with two alarms of the monitor's callback."""
    transformers = pytest.importorskip("transformers")
    from dataclasses import asdict

    from keelback.audit import transformers_callback
    from keelback.audit.monitoring._alarms import Alarm

    callback = transformers_callback()
    alarms = [Alarm(20, "layers.0", HOSTILE, 40.0, "warn"), Alarm(30, "layers.1", "b", 1.0, "warn")]
    callback.earlier = {"readings": [], "alarms": [asdict(alarm) for alarm in alarms]}
    for step in (20, 40):
        state = transformers.TrainerState(global_step=step, max_steps=100)
        losses = [1.0, 0.5, math.nan][: step // 20 + 1]
        state.log_history = [{"step": 10 * i, "loss": x, "epoch": i} for i, x in enumerate(losses)]
        state.stateful_callbacks = {"MonitorCallback": callback.state()}
        (folder / f"checkpoint-{step}").mkdir()
        path = folder / f"checkpoint-{step}" / "trainer_state.json"
        state.save_to_json(str(path))
        os.utime(path, (time.time() - 100 + step,) * 2)  # 20 steps in 20 seconds, 60 seconds ago


def test_a_trainers_folder_is_read_from_its_newest_checkpoint(tmp_path: Path) -> None:
    trainer_folder(tmp_path)
    seen = reader_of(tmp_path).read()
    assert (seen.kind, seen.state, seen.x_label) == ("trainer", "unknown", "step")
    assert seen.line.startswith("step 40 of 100")
    assert seen.seconds_left == pytest.approx(0.0, abs=2.0)
    assert seen.runs[0].curves == {"loss": [(0.0, 1.0), (10.0, 0.5)]}
    assert [alarm.weight for alarm in seen.alarms] == ["problem", "warning", "warning"]
    assert seen.alarms[1].where == "step 30, layers.1"
    assert "<script>window" not in render_page(seen)
    newest = tmp_path / "checkpoint-40" / "trainer_state.json"
    newest.write_text(newest.read_text()[:100])
    seen = reader_of(tmp_path).read()
    assert seen.line.startswith("step 20 of 100")
    assert "damaged, or being written" in seen.alarms[0].message


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ([], "is empty"),
        (["notes.txt"], "holds neither a keelback sweep"),
        (["runs/", "lock"], "has lost its manifest.json"),
        (["manifest.json"], "is not a keelback manifest"),
        (["checkpoint-3/", "checkpoint-3/trainer_state.json"], "no training can be read"),
    ],
)
def test_a_folder_in_which_nothing_can_be_read_gets_one_line(
    tmp_path: Path, left: list[str], said: str
) -> None:
    for name in left:
        path = tmp_path / name
        path.mkdir() if name.endswith("/") else path.touch()
    with pytest.raises(InputError, match=said) as raised:
        reader_of(tmp_path).read()
    assert "\n" not in str(raised.value)


def test_curves_of_any_numbers_can_be_drawn() -> None:
    from keelback.watch import RunView

    for ys in ([0.0], [5e-324, 1e308], [-1e308, 1e308], [1.0, 1.0], [1e-5, 3.0], [3.0, 2.0, 1e9]):
        points = [(float(i), y) for i, y in enumerate(ys)]
        run = RunView("a", "under way", curves={"loss": points})
        page = render_page(Snapshot("d", "sweep", "under way", "x", runs=[run]))
        assert "nan" not in page
        assert "inf" not in page.replace("info", "")
        assert 'class="curve under-way"' in page

"""Parts from outside in sweeps: names, workers here and on Ray, going on, a store's copies."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_files import EXPERIMENT, MODEL, TASK

from keelback import load_plugin
from keelback.data import TASKS
from keelback.errors import InputError, JobError, PluginError
from keelback.experiments import get_experiment
from keelback.experiments._shared.presets import LENGTH_INDEPENDENCE, preset, selective_ssm_run
from keelback.sweeps import Run, Store, TrainingRun, sweep
from keelback.sweeps.executor import ThisProcess
from keelback.sweeps.local import LocalExecutor
from keelback.sweeps.run import name_of, run_from_fields
from keelback.training import Recipe

Cli = Callable[..., tuple[int, str, str]]


def training(task: str = "parity", model: str = "bag", seed: int = 1) -> TrainingRun:
    return TrainingRun(
        task=task,
        task_settings={"seq_len": 4, "data_seed": seed},
        model={"kind": model, "vocab_size": 2},
        recipe=Recipe(epochs=1),
        seed=seed,
    )


@pytest.fixture
def both() -> None:
    """A task and a model, each from a file."""
    Path("parity.py").write_text(TASK)
    Path("bag.py").write_text(MODEL)
    load_plugin("parity.py")
    load_plugin("bag.py")


def test_a_run_without_plugins_has_the_name_that_it_always_had(both: None) -> None:
    for run in (
        training("majority", "selective-ssm"),
        selective_ssm_run("majority", preset(LENGTH_INDEPENDENCE, "majority"), seq_len=5, seed=1),
    ):
        fields = {"kind": "training", **run.model_dump(mode="json")}
        assert run.fields() == fields
        assert "plugins" not in fields
        assert run.name == name_of(fields)


def test_a_run_is_named_after_the_code_of_its_parts(both: None) -> None:
    run = training()
    digests = run.fields()["plugins"]
    assert set(digests) == {"task", "model"}
    assert all(len(digest) == 64 for digest in digests.values())
    names = {run.name, training("majority").name, training("parity", "selective-ssm").name}
    Path("elsewhere").mkdir()
    Path("parity.py").rename("elsewhere/other.py")
    load_plugin("elsewhere/other.py")
    assert training().name == run.name, "where the file lies is no part of the name"
    Path("parity.py").write_text(TASK.replace("% 2", "// 3 % 2"))
    TASKS.discard(lambda task: task.name == "parity")
    load_plugin("parity.py")
    names.add(training().name)
    assert len(names) == 4
    assert run_from_fields(training().fields()).name == training().name


def test_a_record_runs_no_code() -> None:
    Path("parity.py").write_text(TASK + "\nopen('ran', 'w')\n")
    fields = {**training("majority", "selective-ssm").fields(), "task": "parity.py"}
    with pytest.raises(InputError, match="a run names its task"):
        run_from_fields(fields)
    assert not Path("ran").exists()


def squares() -> list[Run]:
    Path("squares.py").write_text(EXPERIMENT)
    load_plugin("squares.py")
    experiment = get_experiment("squares")
    return list(experiment.runs(experiment.settings({})))


def test_workers_load_the_code_as_it_was_read(both: None) -> None:
    """An edit, or a file that is gone, changes nothing for a sweep that was planned."""
    runs: list[Run] = [training(seed=seed) for seed in (1, 2)] + [training(model="rnn"), *squares()]
    for file in ("parity.py", "bag.py", "squares.py"):
        Path(file).unlink()
    here = sweep(runs, Store.create(Path("here")), executor=ThisProcess())
    there = sweep(runs, Store.create(Path("there")), executor=LocalExecutor(2))
    for one, other in zip(here, there, strict=True):
        assert one.name == other.name
        assert one.summary == other.summary
    assert [run.summary["square"] for run in there[3:]] == [0, 1, 4]
    assert there[0].provenance["plugins"]["task"] == str(Path("parity.py").absolute())
    kept = {path.name: path.read_text() for path in Path("there/plugins").iterdir()}
    assert sorted(name.partition("-")[0] for name in kept) == ["bag", "parity", "squares"]
    assert sorted(kept.values()) == sorted([MODEL, TASK, EXPERIMENT])


@pytest.mark.slow
def test_the_workers_of_ray_load_the_same_code(both: None) -> None:
    pytest.importorskip("ray")
    from keelback.sweeps.ray_cluster import RayExecutor

    runs: list[Run] = [training(seed=seed) for seed in (1, 2)] + squares()
    for file in ("parity.py", "bag.py", "squares.py"):
        Path(file).unlink()
    by_ray = sweep(runs, Store.create(Path("ray")), executor=RayExecutor())
    here = sweep(runs, Store.create(Path("here")), executor=ThisProcess())
    for one, other in zip(by_ray, here, strict=True):
        assert one.summary == other.summary
        assert one.fields == other.fields


@pytest.mark.parametrize("executor", [LocalExecutor(1), ThisProcess()])
def test_a_plugin_that_fails_in_a_worker_is_told_with_its_place(
    both: None, executor: LocalExecutor | ThisProcess
) -> None:
    line = 1 + TASK[: TASK.index("        seed = 2")].count("\n")
    Path("parity.py").write_text(
        TASK.replace("        seed = 2", "        assert settings.data_seed != 2\n        seed = 2")
    )
    load_plugin("parity.py")
    store = Store.create(Path("s"))
    runs = [training(seed=seed) for seed in (1, 2)] + [training("majority")]
    with pytest.raises(PluginError, match=rf"^parity\.py:{line}: AssertionError"):
        sweep(runs, store, executor=executor)
    assert runs[2] in store, "what does not need the plugin is stored"


def test_a_worker_that_cannot_load_a_plugin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARENT", str(os.getpid()))
    check = "import os\nassert os.environ['PARENT'] == str(os.getpid()), 'no licence here'\n"
    Path("parity.py").write_text(check + TASK)
    load_plugin("parity.py")
    with pytest.raises(JobError, match=r"parity.py cannot be loaded: AssertionError: no licence"):
        sweep([training(model="rnn")], Store.create(Path("s")), executor=LocalExecutor(1))


SCRIPT = (
    TASK
    + """
from pathlib import Path
from keelback.sweeps import Store, TrainingRun, sweep
from keelback.training import Recipe

def main(executor=None):
    run = TrainingRun(
        task="parity",
        task_settings={"seq_len": 4},
        model={"kind": "rnn", "vocab_size": 2},
        recipe=Recipe(epochs=1),
        seed=1,
    )
    [stored] = sweep([run], Store.create(Path("s")), workers=1, executor=executor)
    print(stored.summary["diverged"], stored.provenance["plugins"]["task"], sep=";")
"""
)


def test_a_part_of_a_script_is_there_in_its_workers() -> None:
    Path("script.py").write_text(SCRIPT + "\nif __name__ == '__main__':\n    main()\n")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False;module __m")


def test_a_part_of_an_importable_module_is_there_in_the_workers() -> None:
    Path("mytask.py").write_text(SCRIPT)
    Path("script.py").write_text("import mytask\nif __name__ == '__main__':\n    mytask.main()\n")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert done.stdout == "False;module mytask\n"


def test_a_part_of_a_session_says_that_it_belongs_in_a_file() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + "\nmain()"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "JobError: a worker cannot load what the runs need: " in last
    assert "goes into a file, which keelback.load_plugin loads" in last


@pytest.mark.slow
def test_a_part_of_a_script_is_there_on_ray() -> None:
    pytest.importorskip("ray")
    run = "from keelback.sweeps.ray_cluster import RayExecutor\n    main(RayExecutor())"
    Path("script.py").write_text(f"{SCRIPT}\nif __name__ == '__main__':\n    {run}\n")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False;module __main__")


WAIT = "        import time; time.sleep(settings.seq_len / 10)\n        bits ="
SLOW = TASK.replace("        bits =", WAIT)


@pytest.mark.slow
@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_on_a_file_goes_on_where_it_was_stopped(cli: Cli, way: signal.Signals) -> None:
    Path("parity.py").write_text(TASK)
    given = ("train", "--task", "parity.py", "--seq-len", "16", "--seed", "3", "--json",
             "--set", "task_settings.n_train=512", "--set", "recipe.batch_size=8",
             "--epochs", "60")  # fmt: skip
    command = [sys.executable, "-m", "keelback", *given, "--out", "stopped"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(Path("stopped").glob("checkpoints/*.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None, "it was to be stopped while it trained"
        time.sleep(0.02)
    process.send_signal(way)
    assert process.wait() != 0
    code, out, _ = cli(*given, "--out", "stopped")
    assert code == 0
    _, whole, _ = cli(*given, "--out", "whole")
    one, other = json.loads(out), json.loads(whole)
    assert one.pop("directory") != other.pop("directory")
    assert one == other


@pytest.mark.slow
def test_a_sweep_on_a_file_that_was_killed_goes_on(cli: Cli) -> None:
    Path("parity.py").write_text(SLOW)
    given = ("reproduce", "length-independence", "--task", "parity.py", "--seq-len", "4,6,8",
             "--seeds", "2", "--set", "epochs=1", "--workers", "1", "--json", "--out", "sweep",
             "--no-report")  # fmt: skip
    command = [sys.executable, "-m", "keelback", *given]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(Path("sweep").glob("runs/*/run.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in Path("sweep").glob("runs/*/run.json")}
    assert 0 < len(before) < 6
    code, out, _ = cli(*given)
    assert code == 0
    assert [row["survived"] for row in json.loads(out)["rows"]] == [2, 2, 2]
    assert (
        before.items()
        <= {path: path.stat().st_mtime_ns for path in Path("sweep").glob("runs/*/run.json")}.items()
    )


@pytest.fixture
def finished(cli: Cli) -> str:
    """The name of a run on the task of a file, by a process that has ended."""
    Path("parity.py").write_text(TASK)
    code, out, _ = cli("train", "--task", "parity.py", "--seq-len", "4", "--epochs", "1",
                       "--out", "s", "--json")  # fmt: skip
    assert code == 0
    return str(json.loads(out)["name"])


def forget_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    from keelback import plugins
    from keelback.experiments import EXPERIMENTS
    from keelback.models import MODELS

    for registry in (TASKS, MODELS, EXPERIMENTS):
        registry.discard(lambda part: "plugin" in getattr(part, "__module__", ""))
    monkeypatch.setattr(plugins, "_loaded", {})


def test_a_run_is_executed_again_with_the_stores_copy_of_its_plugin(
    cli: Cli, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = cli("runs", "s", "--json")
    assert code == 0, "what was stored is read without the plugin"
    assert len(json.loads(out)[0]["plugins.task"]) == 64
    Path("parity.py").write_text(TASK + "\n# edited\n")
    forget_plugins(monkeypatch)
    for option in ([], ["--plugin", "parity.py"]):
        code, _, err = cli("runs", "s", "--rerun", finished, *option)
        [copy] = Path("s/plugins").iterdir()
        assert (code, err.count("\n")) == (2, 1)
        assert "the task of this run is from a plugin file that is not loaded" in err
        assert f"add --plugin {copy}" in err
        assert Path("s/runs", finished).is_dir(), "nothing is deleted that cannot be run again"
        forget_plugins(monkeypatch)
    code, out, _ = cli("runs", "s", "--rerun", finished, "--plugin", copy)
    assert (code, out) == (0, f"executed {finished}\n")


def test_a_report_says_which_plugin_it_needs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("parity.py").write_text(TASK)
    Path("squares.py").write_text(EXPERIMENT)
    for command in (
        "reproduce length-independence --task parity.py --seq-len 3 --seeds 1 --set epochs=1 "
        "--out one --workers 1 --json",
        "reproduce squares --plugin squares.py --out two --workers 1 --json",
    ):
        code, _, _ = cli(*command.split(), "--no-report")
        assert code == 0
    forget_plugins(monkeypatch)
    for folder, part in (("one", "task"), ("two", "experiment")):
        code, _, err = cli("report", folder)
        [copy] = Path(folder, "plugins").iterdir()
        assert (code, err.count("\n")) == (2, 1)
        assert f"the {part} of this run is from a plugin file" in err
        assert f"add --plugin {copy}" in err
        assert not Path(folder, "report").exists()
        code, out, _ = cli("report", folder, "--json", "--plugin", copy)
        assert code == 0
        assert len(json.loads(out)) == 1

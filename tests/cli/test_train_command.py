"""`keelback train`: stopped and taken up, other models and settings, accelerate's parts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from keelback.cli import main
from keelback.sweeps import Store, StoredRun

MAJORITY = ("--task", "majority", "--seq-len", "10", "--set", "task_settings.n_train=500")
KEELBACK = (sys.executable, "-m", "keelback")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def train(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["train", *MAJORITY, *(str(argument) for argument in arguments)])
    printed = capsys.readouterr()
    return int(exit_.value.code or 0), printed.out, printed.err


def only_run(directory: Path) -> StoredRun:
    [run] = Store.open(directory)
    return run


def assert_same_bits(one: StoredRun, other: StoredRun) -> None:
    assert one.summary == other.summary
    assert one.history() == other.history()
    weights = [load_file(run.folder / "model.safetensors") for run in (one, other)]
    assert {name: x.tobytes() for name, x in weights[0].items()} == {
        name: x.tobytes() for name, x in weights[1].items()
    }


def stop_when_under_way(
    command: Sequence[str], folder: Path, number: signal.Signals
) -> tuple[int, str]:
    """Start a training, wait for a checkpoint of its own and a little, send the signal."""
    started = time.time()
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # A shell's & ignores it.
    )
    deadline = time.monotonic() + 600
    while not any(x.stat().st_mtime > started for x in folder.glob("checkpoints/*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=600)
    return process.returncode, error


@pytest.mark.slow
def test_a_training_that_was_stopped_and_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    command = [*KEELBACK, "train", *MAJORITY, "--epochs", "300", "--out"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    code, error = stop_when_under_way([*command, str(stopped)], stopped, signal.SIGTERM)
    assert code == 1
    assert "error: stopped by SIGTERM in epoch" in error
    assert "the same command continues from there" in error
    assert Store.open(stopped).names() == []
    code, error = stop_when_under_way([*command, str(stopped)], stopped, signal.SIGINT)
    assert code == 130
    code, error = stop_when_under_way([*command, str(stopped)], stopped, signal.SIGKILL)
    assert code == -signal.SIGKILL
    for folder in (stopped, whole):
        subprocess.run([*command, str(folder)], check=True, env=ENVIRONMENT, timeout=600)
    assert_same_bits(only_run(stopped), only_run(whole))
    assert {path.name for path in stopped.iterdir()} == {"lock", "manifest.json", "runs"}


@pytest.mark.slow
def test_two_processes_share_a_training(tmp_path: Path) -> None:
    """As the command alone does, up to the rounding of sums in another order."""
    arguments = ["train", *MAJORITY, "--epochs", "2", "--cpu", "--json", "--out"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    both, alone = (
        json.loads(
            subprocess.run(
                [*start, *arguments, str(tmp_path / name)],
                check=True, capture_output=True, env=ENVIRONMENT, timeout=600,
            ).stdout
        )
        for name, start in (
            ("both", [*launch, "--nproc-per-node", "2", "-m", "keelback"]),
            ("alone", KEELBACK),
        )
    )  # fmt: skip
    assert both["name"] == alone["name"]
    assert both["loss"] == pytest.approx(alone["loss"], rel=1e-4)


def test_the_default_run_is_the_sweeps(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """So that a directory can hold both, and names stay what they were."""
    code, out, _ = train(capsys, "--epochs", "1", "--out", tmp_path, "--json")
    assert code == 0
    fields = only_run(tmp_path).fields
    assert "precision" not in fields["recipe"]
    assert fields["model"]["spectral_abscissa"] == 0.0
    assert json.loads(out)["name"] == only_run(tmp_path).name


def test_another_model_with_other_settings_and_less_memory(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = (
        "--model", "mamba-stack", "--set", "model.d_model=8", "--set", "model.n_layers=2",
        "--set", "recipe.batch_size=100", "--epochs", "1",
    )  # fmt: skip
    for folder, more in (("plain", ()), ("thrifty", ("--recompute-layers",))):
        code, _, _ = train(capsys, *arguments, *more, "--out", tmp_path / folder)
        assert code == 0
    plain = only_run(tmp_path / "plain")
    assert plain.fields["model"]["n_layers"] == 2
    assert plain.fields["recipe"]["batch_size"] == 100
    assert_same_bits(only_run(tmp_path / "thrifty"), plain)


def test_the_precision_is_part_of_the_runs_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for precision in ("float32", "bfloat16"):
        train(capsys, "--epochs", "1", "--precision", precision, "--out", tmp_path)
    assert len(Store.open(tmp_path).names()) == 2


def test_a_tracker_is_told_the_configuration_and_each_epoch(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, _, _ = train(capsys, "--epochs", "3", "--tracker", "tensorboard", "--out", tmp_path)
    assert code == 0
    folder = tmp_path / "trackers" / "keelback"
    events = EventAccumulator(str(folder))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    stored = [(row["epoch"], row["loss"]) for row in only_run(tmp_path).history()[1:]]
    assert logged == [(step, pytest.approx(value, rel=1e-6)) for step, value in stored]
    [noted] = folder.rglob("hparams.yml")
    assert "recipe.batch_size: 64" in noted.read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--model mamba-stak", "did you mean mamba-stack?"),
        ("--model mamba-stack --abscissa 1", "there is no field spectral_abscissa"),
        ("--set recipe.epoch=3", "there is no field recipe.epoch; did you mean epochs?"),
        ("--set recipe.batch_size=many", "recipe.batch_size is 'many'"),
        ("--set model.d_modle=3", "there is no field d_modle; did you mean d_model?"),
        ("--set model.d_model=4.5", "d_model is 4.5"),
        ("--set task_settings.n_trian=3", "did you mean n_train?"),
        ("--set recipe.epochs.x=3", "epochs has no fields"),
        ("--set nope.x=3", "there is no field nope"),
        ("--set epochs", "is not PART.NAME=VALUE"),
        ("--precision float16", "recipe.precision is 'float16'"),
        ("--tracker wandbee", "did you mean wandb?"),
        ("--tracker clearml", "clearml is not installed"),
        ("--recompute-layers", "a SelectiveClassifier has none"),
        ("--checkpoint-seconds -1", "--checkpoint-seconds"),
    ],
)
def test_a_wrong_option_is_told_in_one_line_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, complaint: str
) -> None:
    code, out, error = train(capsys, *arguments.split(), "--out", tmp_path / "new")
    assert (code, out) == (2, "")
    assert complaint in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_task_that_loads_its_data_trains_on_local_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEELBACK_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        rows = ["text,label", *(f"{'good' if i % 2 else 'bad'} film,{i % 2}" for i in range(8))]
        (tmp_path / f"{split}.csv").write_text("\n".join(rows) + "\n")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    settings = ["--task", "imdb", "--seq-len", "5", "--epochs", "2"]
    given = ["--data", str(tmp_path), "--tokenizer", str(tmp_path / "vocab.txt"), "--json"]
    with pytest.raises(SystemExit) as end:
        main(["train", *settings, "--out", str(tmp_path / "out"), *given])
    assert not end.value.code
    assert 0 <= json.loads(capsys.readouterr().out)["test_accuracy"] <= 1
    [run] = Store.open(tmp_path / "out")
    assert run.fields["model"]["vocab_size"] == len(words)
    assert "paths" not in run.fields


def test_a_task_that_makes_its_data_takes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = train(capsys, "--data", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert "data" in error
    assert not (tmp_path / "out").exists()

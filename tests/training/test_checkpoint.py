"""Checkpoints: a training that was stopped anywhere goes on to the same bits."""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from keelback.data import Split, get_task
from keelback.errors import InputError, JobError
from keelback.models import SelectiveClassifier, SelectiveSSMConfig
from keelback.training import Checkpoint, Recipe, TrainingResult, train
from keelback.training.loop import _Training

RECIPE = Recipe(epochs=3, batch_size=16)
STEPS = 5
ABSCISSAS = [0.0, 60.0, 0.0]


def models(abscissas: Sequence[float] = ABSCISSAS) -> list[SelectiveClassifier]:
    return [
        SelectiveSSMConfig(vocab_size=2, spectral_abscissa=s_A).build(
            torch.Generator().manual_seed(seed)
        )
        for seed, s_A in enumerate(abscissas)
    ]


def splits(count: int = len(ABSCISSAS)) -> list[Split]:
    return [
        get_task("majority", seq_len=12, n_train=72, n_test=4, data_seed=seed).split("train")
        for seed in range(count)
    ]


def run(
    checkpoint: Checkpoint | None = None, recipe: Recipe = RECIPE, seeds: Sequence[int] = (0, 1, 2)
) -> list[TrainingResult]:
    return train(models(), splits(), recipe, seeds, checkpoint=checkpoint)


def assert_same_bits(ours: list[TrainingResult], other: list[TrainingResult]) -> None:
    for one, two in zip(ours, other, strict=True):
        assert one.history == two.history
        assert one.divergence == two.divergence
        assert one.weights.keys() == two.weights.keys()
        assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)


def signal_after(
    monkeypatch: pytest.MonkeyPatch, steps: int, number: signal.Signals = signal.SIGTERM
) -> Callable[[], None]:
    """Send this process a signal in the middle of the step after `steps`; gives the undoing."""
    taken = 0
    plain = _Training._step

    def step(self: _Training, index: torch.Tensor) -> None:
        nonlocal taken
        if taken == steps:
            os.kill(os.getpid(), number)
        taken += 1
        plain(self, index)

    monkeypatch.setattr(_Training, "_step", step)
    return lambda: monkeypatch.setattr(_Training, "_step", plain)


@pytest.fixture(scope="module")
def uninterrupted() -> list[TrainingResult]:
    return run()


@pytest.mark.parametrize("steps", range(3 * STEPS))
def test_a_training_stopped_at_any_step_goes_on_to_the_same_bits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    uninterrupted: list[TrainingResult],
    steps: int,
) -> None:
    """One of the three replicas dies in the first epoch, before or after the stop."""
    undo = signal_after(monkeypatch, steps)
    checkpoint = Checkpoint(tmp_path / "c")
    before = signal.getsignal(signal.SIGTERM)
    where = f"epoch {(steps + 1) // STEPS + 1} after step {(steps + 1) % STEPS}"
    with pytest.raises(JobError, match=f"stopped by SIGTERM in {where}; the same command"):
        run(checkpoint)
    assert signal.getsignal(signal.SIGTERM) is before
    undo()
    seen: list[int] = []
    caplog.set_level("INFO", "keelback")
    results = train(
        models(),
        splits(),
        RECIPE,
        (0, 1, 2),
        checkpoint=Checkpoint(tmp_path / "c"),
        on_epoch=lambda epoch, _: seen.append(epoch),
    )
    assert_same_bits(results, uninterrupted)
    assert seen == list(range((steps + 1) // STEPS + 1, 4)), "finished epochs are not run again"
    assert f"going on from {tmp_path / 'c'}: epoch {(steps + 1) // STEPS + 1}" in caplog.text


def test_an_interrupt_keeps_the_training_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: list[TrainingResult]
) -> None:
    undo = signal_after(monkeypatch, 7, signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's & ignores it.
    try:
        with pytest.raises(KeyboardInterrupt):
            run(Checkpoint(tmp_path / "c"))
    finally:
        signal.signal(signal.SIGINT, before)
    undo()
    assert_same_bits(run(Checkpoint(tmp_path / "c")), uninterrupted)


def test_a_stop_after_an_early_end_keeps_who_had_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=5, batch_size=16, early_stop=1, plateau_threshold=0.2)
    whole = run(recipe=recipe)
    lengths = [len(result.history) for result in whole]
    assert len(set(lengths)) > 1
    undo = signal_after(monkeypatch, STEPS * (min(lengths) - 1) + 2)
    with pytest.raises(JobError, match="stopped by SIGTERM"):
        run(Checkpoint(tmp_path / "c"), recipe)
    undo()
    assert_same_bits(run(Checkpoint(tmp_path / "c"), recipe), whole)


def test_a_killed_training_goes_on_from_its_last_epoch(
    tmp_path: Path, uninterrupted: list[TrainingResult]
) -> None:
    class Killed(BaseException):
        """Nothing in the loop catches it, as nothing catches SIGKILL."""

    def die(epoch: int, living: int) -> None:
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(
            models(), splits(), RECIPE, (0, 1, 2), checkpoint=Checkpoint(tmp_path / "c"),
            on_epoch=die,
        )  # fmt: skip
    seen: list[int] = []
    results = train(
        models(), splits(), RECIPE, (0, 1, 2), checkpoint=Checkpoint(tmp_path / "c"),
        on_epoch=lambda epoch, _: seen.append(epoch),
    )  # fmt: skip
    assert seen == [3]
    assert_same_bits(results, uninterrupted)


def test_checkpoints_are_rare_where_epochs_are_short(tmp_path: Path) -> None:
    run(Checkpoint(tmp_path / "c", seconds=3600.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["cut", "empty", "text", "format", "other training"])
def test_what_is_not_this_trainings_checkpoint_counts_as_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    uninterrupted: list[TrainingResult],
    fault: str,
) -> None:
    path = tmp_path / "c"
    undo = signal_after(monkeypatch, 7)
    with pytest.raises(JobError):
        run(Checkpoint(path), seeds=(7, 8, 9) if fault == "other training" else (0, 1, 2))
    undo()
    content = path.read_bytes()
    if fault == "cut":
        path.write_bytes(content[:-10])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "text":
        path.write_text("not a checkpoint")
    elif fault == "format":
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = {**file.metadata(), "format": "keelback-checkpoint-0"}
        save_file(tensors, path, metadata)
    left = path.read_bytes()
    assert_same_bits(run(Checkpoint(path)), uninterrupted)
    if fault in ("cut", "empty", "text"):
        assert f"the checkpoint {path} is damaged" in caplog.text
        assert path.with_name("c.damaged").read_bytes() == left
    else:
        assert f"{path} is of another training: beginning anew" in caplog.text


def test_a_checkpoint_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(JobError, match="cannot write the checkpoint"):
        run(Checkpoint(tmp_path / "file" / "c"))
    assert (tmp_path / "file").read_text() == "mine"


def test_threads_that_may_not_listen_for_signals_train_as_well(
    tmp_path: Path, uninterrupted: list[TrainingResult]
) -> None:
    found: list[list[TrainingResult]] = []
    thread = threading.Thread(target=lambda: found.append(run(Checkpoint(tmp_path / "c"))))
    thread.start()
    thread.join()
    assert_same_bits(found[0], uninterrupted)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1j])
def test_parameters_that_are_no_finite_real_numbers_are_not_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: complex
) -> None:
    undo = signal_after(monkeypatch, 3)
    path = tmp_path / "c"
    with pytest.raises(JobError):
        run(Checkpoint(path))
    undo()
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["flat"] = tensors["flat"] * value
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match=r"not finite real numbers.*delete it to begin"):
        run(Checkpoint(path))
    assert path.exists()

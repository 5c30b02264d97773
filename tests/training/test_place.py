"""Where a training computes: accelerate's device, precision, processes and trackers."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from keelback.data import Split, get_task
from keelback.errors import InputError, JobError
from keelback.models import SelectiveClassifier, SelectiveSSMConfig
from keelback.training import AcceleratePlace, Place, Recipe, TrainingResult, train

pytest.importorskip("accelerate")

RECIPE = Recipe(epochs=2, batch_size=16)


def model(seed: int) -> SelectiveClassifier:
    return SelectiveSSMConfig(vocab_size=2).build(torch.Generator().manual_seed(seed))


def split(seed: int) -> Split:
    task = get_task("majority", seq_len=12, n_train=49, n_test=4, data_seed=seed)
    return task.split("train")


def run(place: Place, recipe: Recipe = RECIPE) -> list[TrainingResult]:
    return train([model(1), model(2)], [split(1), split(2)], recipe, [1, 2], place=place)


def losses(result: TrainingResult) -> list[float]:
    return [float(row["loss"] or math.nan) for row in result.history[1:]]


def test_accelerate_on_one_device_changes_no_bit() -> None:
    for ours, theirs in zip(run(Place()), run(AcceleratePlace(cpu=True)), strict=True):
        assert ours.history == theirs.history


def test_bfloat16_is_near_and_not_the_same() -> None:
    exact = run(Place())
    rough = run(Place(), RECIPE.model_copy(update={"precision": "bfloat16"}))
    for one, other in zip(exact, rough, strict=True):
        assert losses(other) == pytest.approx(losses(one), rel=0.1)
        assert losses(other) != losses(one)
        assert all(tensor.dtype == torch.float32 for tensor in other.weights.values())


PROCESSES = """
import json, sys
sys.path.insert(0, {tests!r})
from test_place import losses, run
from keelback.training import AcceleratePlace

with AcceleratePlace(cpu=True) as place:
    results = run(place)
if place.is_main:
    weights = [{{k: v.tolist() for k, v in r.weights.items()}} for r in results]
    with open({out!r}, "w") as file:
        json.dump([[losses(r) for r in results], weights], file)
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(
    tmp_path: Path, on_two_processes: Callable[[str], None]
) -> None:
    """Batches of 16 in two shares; the last of each epoch, one example, leaves one without any."""
    out = tmp_path / "out.json"
    on_two_processes(PROCESSES.format(tests=str(Path(__file__).parent), out=str(out)))
    found, weights = json.loads(out.read_text())
    for result, others, tensors in zip(run(Place()), found, weights, strict=True):
        assert others == pytest.approx(losses(result), rel=1e-5)
        for name, tensor in result.weights.items():
            torch.testing.assert_close(torch.tensor(tensors[name]), tensor, rtol=1e-3, atol=1e-4)


def test_trackers_are_told_every_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = AcceleratePlace(cpu=True, trackers=["tensorboard"], folder=str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    with place:
        [result] = train([model(1)], [split(1)], RECIPE, [1], place=place)
    events = EventAccumulator(str(tmp_path / "keelback"))
    events.Reload()
    logged = [event.value for event in events.Scalars("loss")]
    assert logged == pytest.approx(losses(result), rel=1e-6)
    assert [event.step for event in events.Scalars("s_A")] == [1, 2]


def test_a_tracker_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    place = AcceleratePlace(cpu=True, trackers=["tensorboard"], folder=str(tmp_path / "file"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(JobError, match="cannot log to tensorboard: "), place:
        pass


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"trackers": ["wandbee"]}, "unknown tracker 'wandbee'"),
        ({"trackers": ["clearml"]}, "clearml is not installed"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        AcceleratePlace(cpu=True, **settings)  # type: ignore[arg-type]

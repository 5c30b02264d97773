"""The settings of arXiv 2502.01473 for each task, and the figures that it published."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pydantic import JsonValue

from keelback.data import get_task
from keelback.errors import InputError
from keelback.experiments.training_run import TrainingRun
from keelback.models import model_config
from keelback.training import Recipe


@dataclass(frozen=True)
class Preset:
    """One task's sizes and lengths in the paper's two experiments."""

    d_model: int
    d_state: int
    batch_size: int
    epochs: int
    lengths: tuple[int, ...]
    quick_lengths: tuple[int, ...]
    task_settings: Mapping[str, JsonValue]


LENGTH_INDEPENDENCE = {
    "majority": Preset(
        d_model=4,
        d_state=4,
        batch_size=64,
        epochs=40,
        lengths=tuple(range(25, 401, 25)),
        quick_lengths=(25, 50, 100, 200, 400),
        task_settings={"n_train": 1000, "n_test": 1000},
    ),
}


def preset(presets: Mapping[str, Preset], task: str) -> Preset:
    """The preset of a task.

    Raises:
        InputError: the experiment has none for it.
    """
    if task not in presets:
        raise InputError(
            f"unknown task {task!r} for this experiment; there are {', '.join(sorted(presets))}"
        )
    return presets[task]


def selective_ssm_run(
    task: str, preset: Preset, *, seq_len: int, seed: int, epochs: int, **model: JsonValue
) -> TrainingRun:
    """The training of the paper's model on a task; `model` overrides the model's defaults."""
    settings: dict[str, Any] = {**preset.task_settings, "seq_len": seq_len, "data_seed": seed}
    described = get_task(task, **settings)
    fields = {
        "kind": "selective-ssm",
        "vocab_size": described.vocab_size,
        "n_classes": described.n_classes,
        "d_model": preset.d_model,
        "d_state": preset.d_state,
        **model,
    }
    return TrainingRun(
        task=task,
        task_settings=settings,
        model=model_config(fields).model_dump(mode="json"),
        recipe=Recipe(epochs=epochs, batch_size=preset.batch_size),
        seed=seed,
    )


@functools.cache
def _published() -> dict[str, Any]:
    text = files("keelback.experiments").joinpath("published.json").read_text()
    return dict(json.loads(text))


def published_accuracy(task: str, seq_len: int) -> dict[str, float] | None:
    """`train`, `test`, their standard deviations and the number of `runs`, where published."""
    rows = _published()["length_independence"].get(task, [])
    return next((row for row in rows if row["seq_len"] == seq_len), None)

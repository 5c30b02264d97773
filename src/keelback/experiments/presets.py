"""The settings of arXiv 2502.01473 for each task, and the figures that it published."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol, TypeVar

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
    seeded_data: bool
    """Whether each seed draws its own data; otherwise all seeds share one corpus."""


@dataclass(frozen=True)
class MarginPreset(Preset):
    """Experiment 1's two sweeps: `lengths` from `abscissa`, and `abscissas` at `seq_len`."""

    abscissa: float
    seq_len: int
    abscissas: tuple[float, ...]


_BORDER = tuple(round(0.02 * step - 0.1, 2) for step in range(11))
"""Abscissas from -0.1 to 0.1 by 0.02."""

_MAJORITY: dict[str, Any] = {
    "seeded_data": True,
    "d_model": 4,
    "d_state": 4,
    "batch_size": 64,
    "task_settings": {"n_train": 1000, "n_test": 1000},
}
_LISTOPS: dict[str, Any] = {
    "seeded_data": True,
    "d_model": 16,
    "d_state": 4,
    "batch_size": 64,
    "task_settings": {"n_train": 1000, "n_test": 1000},
}
_IMDB: dict[str, Any] = {"seeded_data": False, "d_model": 16, "d_state": 4, "batch_size": 256}

LENGTH_INDEPENDENCE = {
    "majority": Preset(
        **_MAJORITY,
        epochs=40,
        lengths=tuple(range(25, 401, 25)),
        quick_lengths=(25, 50, 100, 200, 400),
    ),
    "listops": Preset(
        **_LISTOPS,
        epochs=50,
        lengths=tuple(range(100, 1001, 100)),
        quick_lengths=(100, 200),
    ),
    "imdb": Preset(
        **_IMDB,
        epochs=30,
        lengths=tuple(range(100, 2001, 100)),
        quick_lengths=(100, 200),
        task_settings={},
    ),
}
"""Experiment 2, by task."""

STABILITY_MARGIN = {
    "majority": MarginPreset(
        **_MAJORITY,
        epochs=10,
        lengths=tuple(range(50, 301, 50)),
        quick_lengths=(50, 150),
        abscissa=0.1,
        seq_len=250,
        abscissas=_BORDER,
    ),
    "listops": MarginPreset(
        **_LISTOPS,
        epochs=10,
        lengths=tuple(range(100, 601, 100)),
        quick_lengths=(100, 200),
        abscissa=0.1,
        seq_len=300,
        abscissas=_BORDER,
    ),
    "imdb": MarginPreset(
        **_IMDB,
        epochs=10,
        lengths=tuple(range(300, 551, 50)),
        quick_lengths=(300,),
        task_settings={"n_train": 2500, "n_test": 2500},
        abscissa=0.1,
        seq_len=500,
        abscissas=_BORDER,
    ),
}
"""Experiment 1, by task."""


P = TypeVar("P", bound=Preset)


def preset(presets: Mapping[str, P], task: str) -> P:
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
    task: str,
    preset: Preset,
    *,
    seq_len: int,
    seed: int,
    epochs: int,
    paths: Mapping[str, Path] | None = None,
    **model: JsonValue,
) -> TrainingRun:
    """The training of the paper's model on a task; `model` overrides the model's defaults.

    `paths` says where a task that loads its data finds them (`data`, `tokenizer`).

    Raises:
        InputError: the task or the model cannot be had so, or the data cannot be found.
    """
    paths = dict(paths or {})
    settings: dict[str, Any] = {**preset.task_settings, "seq_len": seq_len}
    if preset.seeded_data:
        settings["data_seed"] = seed
    described = get_task(task, **settings, **paths)
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
        data_fingerprint=_fingerprint(task, tuple(sorted(paths.items())), seq_len),
        paths=paths,
        model=model_config(fields).model_dump(mode="json"),
        recipe=Recipe(epochs=epochs, batch_size=preset.batch_size),
        seed=seed,
    )


class _WithPaths(Protocol):
    data: Path | None
    tokenizer: Path | None


def data_paths(settings: _WithPaths) -> dict[str, Path]:
    """Where the settings say that the data and the vocabulary lie."""
    given = {"data": settings.data, "tokenizer": settings.tokenizer}
    return {name: path for name, path in given.items() if path is not None}


@functools.cache
def _fingerprint(task: str, paths: tuple[tuple[str, Path], ...], seq_len: int) -> str | None:
    """A task's fingerprint; read once, since the runs of a sweep share their data."""
    return get_task(task, seq_len=seq_len, **dict(paths)).fingerprint()


@functools.cache
def _published() -> dict[str, Any]:
    text = files("keelback.experiments").joinpath("published.json").read_text()
    return dict(json.loads(text))


def published_accuracy(task: str, seq_len: int) -> dict[str, float] | None:
    """`train`, `test`, their standard deviations and the number of `runs`, where published."""
    rows = _published()["length_independence"].get(task, [])
    return next((row for row in rows if row["seq_len"] == seq_len), None)


def published_margin(task: str, seq_len: int, abscissa: float) -> list[dict[str, float]]:
    """`s_A` and `loss` after the last of the `epochs` that each published run logged."""
    rows = _published()["stability_margin"].get(task, [])
    return [row for row in rows if (row["seq_len"], row["abscissa"]) == (seq_len, abscissa)]

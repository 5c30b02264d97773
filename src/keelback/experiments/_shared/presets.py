"""The settings of arXiv 2502.01473 for each task, and a training with them."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import JsonValue

from keelback.data import Task, get_task, require_task
from keelback.errors import InputError
from keelback.models import BASELINES, SelectiveSSMConfig, matched_baseline, model_config
from keelback.registry import is_from_outside
from keelback.sweeps.training_run import TrainingRun
from keelback.training import Recipe

STABLE_START = -0.01
"""Initial abscissa of the stable parametrisation, which cannot start at the paper's zero."""

P = TypeVar("P", bound="Preset")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One task's sizes and lengths in the paper's two experiments."""

    d_model: int
    d_state: int
    batch_size: int
    epochs: int
    lengths: tuple[int, ...]
    quick_lengths: tuple[int, ...]
    task_settings: Mapping[str, JsonValue] = field(default_factory=dict)
    seeded_data: bool
    """Whether each seed draws its own data; otherwise all seeds share one corpus."""
    quick_task_settings: Mapping[str, JsonValue] = field(default_factory=dict)
    """Smaller sizes for a quick version."""
    quick_epochs: int | None = None

    def at(self: P, quick: bool) -> P:
        """The preset itself, or that of a quick version: fewer lengths, less data, fewer epochs."""
        if not quick:
            return self
        return replace(
            self,
            lengths=self.quick_lengths,
            task_settings={**self.task_settings, **self.quick_task_settings},
            epochs=self.quick_epochs or self.epochs,
        )


@dataclass(frozen=True, kw_only=True)
class MarginPreset(Preset):
    """Experiment 1's two sweeps: `lengths` from `abscissa`, and `abscissas` at `seq_len`."""

    abscissa: float = 0.1
    seq_len: int
    abscissas: tuple[float, ...] = tuple(round(0.02 * step - 0.1, 2) for step in range(11))


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
_IMDB: dict[str, Any] = {
    "seeded_data": False,
    "d_model": 16,
    "d_state": 4,
    "batch_size": 256,
    "quick_task_settings": {"n_train": 2500, "n_test": 2500},
    "quick_epochs": 5,
}

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
    ),
}
"""Experiment 2, by task."""

STABILITY_MARGIN = {
    "majority": MarginPreset(
        **_MAJORITY,
        epochs=10,
        lengths=tuple(range(50, 301, 50)),
        quick_lengths=(50, 150),
        seq_len=250,
    ),
    "listops": MarginPreset(
        **_LISTOPS,
        epochs=10,
        lengths=tuple(range(100, 601, 100)),
        quick_lengths=(100, 200),
        seq_len=300,
    ),
    "imdb": MarginPreset(
        **_IMDB,
        epochs=10,
        lengths=tuple(range(300, 551, 50)),
        quick_lengths=(300,),
        task_settings={"n_train": 2500, "n_test": 2500},
        seq_len=500,
    ),
}
"""Experiment 1, by task."""


def preset(presets: Mapping[str, P], task: str) -> P:
    """The preset of a task: the paper's or, for a task from outside, its sizes without lengths.

    Raises:
        InputError: there is no such task.
    """
    if task in presets:
        return presets[task]
    require_task(task)
    return replace(presets["majority"], **_FROM_OUTSIDE)


_FROM_OUTSIDE: dict[str, Any] = {
    "d_model": 16,
    "lengths": (),
    "quick_lengths": (),
    "task_settings": {},
}
"""What a task from outside has unlike Majority: the width of ListOps, and its own defaults."""


def chosen_lengths(task: str, given: Sequence[int] | None, papers: Sequence[int]) -> Sequence[int]:
    """The lengths that were asked for, or else the paper's for this task.

    Raises:
        InputError: there are neither.
    """
    if given or papers:
        return given or papers
    raise InputError(
        f"the task {task} is not the paper's, which has no lengths for it: give --seq-len 10,20 "
        "(in Python, seq_len)"
    )


def selective_ssm_run(
    task: str,
    preset: Preset,
    *,
    seq_len: int | None,
    seed: int,
    epochs: int | None = None,
    paths: Mapping[str, Path] | None = None,
    padding_side: str | None = None,
    norm_precision: Literal["float32", "float64"] = "float32",
    **model: Any,
) -> TrainingRun:
    """The training of the paper's model on a task; `model` overrides the model's defaults.

    `seq_len` None is the task's own default. `paths` says where a task that loads its data finds
    them (`data`, `tokenizer`); `padding_side` where padding stands, in a task that has a setting
    for it; `norm_precision` is the recipe's.

    Raises:
        InputError: the task or the model cannot be had so, or its data cannot be found or are
            damaged.
    """
    paths = dict(paths or {})
    settings: dict[str, Any] = dict(preset.task_settings)
    if seq_len is not None:
        settings["seq_len"] = seq_len
    if preset.seeded_data:
        settings["data_seed"] = seed
    described = get_task(task, **settings, **paths)
    if padding_side is not None and "padding_side" in described.settings_type.model_fields:
        settings["padding_side"] = padding_side
    fields = {
        "kind": "selective-ssm",
        "vocab_size": described.vocab_size,
        "n_classes": described.n_classes,
        "d_model": preset.d_model,
        "d_state": preset.d_state,
        **model,
    }
    return TrainingRun(
        task=described.name,
        task_settings=settings,
        data_fingerprint=_fingerprint_of_checked_data(described),
        paths=paths,
        model=model_config(fields).model_dump(mode="json"),
        recipe=Recipe(
            epochs=epochs or preset.epochs,
            batch_size=preset.batch_size,
            norm_precision=norm_precision,
        ),
        seed=seed,
    )


def paper_recipe(task: str, epochs: int | None = None) -> Recipe:
    """The paper's recipe for a task, or the general one where it has none; `epochs` overrides."""
    recipe = Recipe()
    if task in LENGTH_INDEPENDENCE:
        chosen = LENGTH_INDEPENDENCE[task]
        recipe = Recipe(epochs=chosen.epochs, batch_size=chosen.batch_size)
    return recipe if epochs is None else recipe.model_copy(update={"epochs": epochs})


def stable_model() -> dict[str, Any]:
    """What makes the selective SSM stable by construction."""
    return {"parametrisation": "stable", "spectral_abscissa": STABLE_START}


def as_baseline(run: TrainingRun, kind: str) -> TrainingRun:
    """The same training of a parameter-matched baseline, on the same data and seed.

    Raises:
        InputError: there is no such baseline.
    """
    if kind not in BASELINES:
        raise InputError(f"there is no baseline {kind!r}; there are {', '.join(BASELINES)}")
    like = SelectiveSSMConfig.model_validate(run.model)
    baseline = matched_baseline(kind, like).model_dump(mode="json")
    return run.model_copy(update={"model": baseline})


def _fingerprint_of_checked_data(task: Task) -> str | None:
    """A task's fingerprint, once data that may be wrong were read through: before all is written.

    Loaded data are read once for each length, since the runs of a sweep share them. A task from
    outside that generates its data does so for one seed of each length.
    """
    settings = task.settings.model_dump(mode="json")
    fingerprint = _fingerprint(type(task), json.dumps(settings, sort_keys=True))
    if fingerprint is None and is_from_outside(task):
        del settings["data_seed"]
        _read_through(type(task), json.dumps(settings, sort_keys=True))
    return fingerprint


@functools.cache
def _fingerprint(task: type[Task], settings: str) -> str | None:
    fingerprint = _with(task, settings).fingerprint()
    if fingerprint is not None:
        _with(task, settings).train_and_test()
    return fingerprint


@functools.cache
def _read_through(task: type[Task], settings: str) -> None:
    _with(task, settings).train_and_test()


def _with(task: type[Task], settings: str) -> Task:
    return task(task.settings_type.model_validate_json(settings))

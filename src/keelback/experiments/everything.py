"""Every experiment on every task whose data can be had, as one request."""

from collections.abc import Mapping
from typing import Any

from keelback.data import get_task
from keelback.errors import InputError
from keelback.experiments._catalogue import EXPERIMENTS
from keelback.experiments.experiment import Experiment, Settings

Planned = tuple[Experiment[Any], Settings]

_LOADED = "imdb"
"""The task whose data are loaded unless told otherwise; `data` and `tokenizer` are for it."""


def everything(given: Mapping[str, Any]) -> tuple[list[Planned], list[str]]:
    """All experiments with the settings that each has, and a sentence for each task skipped.

    A `task` in `given` restricts the plan to it. `data` and `tokenizer` go to that task, or else to
    the one that loads its data.

    Raises:
        InputError: a value is wrong, or the data that were named cannot be read.
    """
    without_paths = {k: v for k, v in given.items() if k not in ("data", "tokenizer")}
    planned: list[Planned] = []
    skipped: dict[str, str] = {}
    for experiment in EXPERIMENTS.values():
        if "task" not in given and not experiment.tasks:
            planned.append((experiment, experiment.settings(_known(experiment, without_paths))))
        for task in experiment.tasks:
            if given.get("task", task) != task or task in skipped:
                continue
            loads = task == given.get("task", _LOADED)
            own = _known(experiment, {**(given if loads else without_paths), "task": task})
            if "data" not in own and (missing := _missing(task)):
                skipped[task] = f"{task} is skipped: {missing}"
            else:
                planned.append((experiment, experiment.settings(own)))
    if not planned and not skipped:
        raise InputError(f"no experiment has a task {given['task']!r}")
    return planned, list(skipped.values())


def _known(experiment: Experiment[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    fields = experiment.settings_type.model_fields
    return {name: value for name, value in given.items() if name in fields}


def _missing(task: str) -> str:
    """Why the data of a task cannot be had without a path; empty if they can."""
    loaded = get_task(task, seq_len=2)
    try:
        if loaded.fingerprint() is not None:
            loaded.train_and_test()
    except InputError as error:
        return str(error)
    return ""

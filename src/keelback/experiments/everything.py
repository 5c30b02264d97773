"""Every experiment on every task whose data can be had, as one request."""

from collections.abc import Mapping
from typing import Any

from keelback.data import TASKS, get_task
from keelback.errors import InputError
from keelback.experiments.experiment import EXPERIMENTS, Experiment, Settings
from keelback.registry import is_from_outside

Planned = tuple[Experiment[Any], Settings]

_LOADED = "imdb"
"""The task whose data are loaded unless told otherwise; `data` and `tokenizer` are for it."""


def everything(given: Mapping[str, Any]) -> tuple[list[Planned], list[str]]:
    """All experiments with the settings that each has, and a sentence for each task skipped.

    A `task` in `given` restricts the plan to it; one from outside goes to every experiment whose
    settings leave the task open. `data` and `tokenizer` go to that task, or else to the one that
    loads its data. An experiment of an installed package that cannot be loaded is skipped too.

    Raises:
        InputError: a value is wrong, or the data that were named cannot be read.

    Examples:
        >>> jobs, skipped = everything({"quick": True})
        >>> len(jobs) > 5
        True
    """
    problems = EXPERIMENTS.load_all()
    without_paths = {k: v for k, v in given.items() if k not in ("data", "tokenizer")}
    planned: list[Planned] = []
    skipped: dict[str, str] = {}
    for experiment in EXPERIMENTS.registered().values():
        if "task" not in given and not experiment.tasks:
            try:
                settings = experiment.settings(_known(experiment, without_paths))
            except InputError as error:
                if not is_from_outside(experiment):
                    raise
                problems.append(f"{experiment.name} is skipped: {error}")
            else:
                planned.append((experiment, settings))
        for task in (*experiment.tasks, *_opened(experiment, given)):
            if given.get("task", task) != task or task in skipped:
                continue
            loads = task == given.get("task", _LOADED)
            own = _known(experiment, {**(given if loads else without_paths), "task": task})
            if "data" not in own and task in experiment.tasks and (missing := _missing(task)):
                skipped[task] = f"{task} is skipped: {missing}"
            else:
                planned.append((experiment, experiment.settings(own)))
    if not planned and not skipped:
        raise InputError(f"no experiment has a task {given['task']!r}")
    return planned, [*skipped.values(), *problems]


def _opened(experiment: Experiment[Any], given: Mapping[str, Any]) -> tuple[str, ...]:
    """The task from outside that was asked for, where the experiment takes any task."""
    task, field = given.get("task"), experiment.settings_type.model_fields.get("task")
    takes_any = field is not None and field.annotation is str
    known = {name for one in EXPERIMENTS.registered().values() for name in one.tasks}
    return (str(task),) if takes_any and task in TASKS and task not in known else ()


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

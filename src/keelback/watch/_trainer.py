"""The folder of a `Trainer` of transformers, as its newest checkpoint describes the training."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keelback.errors import InputError
from keelback.files import parsed_json
from keelback.progress import in_words
from keelback.watch._snapshot import (
    Alarm,
    RunState,
    RunView,
    Snapshot,
    State,
    counted,
    curves_of,
    finite,
    short,
)

_STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-\d{1,18}")
_NOT_CURVES = ("epoch", "total_flos")
_SCORES = ("loss", "eval_loss")
_ALARMS_SHOWN = 50


def is_trainer_folder(directory: Path) -> bool:
    """Whether a checkpoint of transformers lies in it, or it is one."""
    return bool(_checkpoints(directory))


def _checkpoints(directory: Path) -> list[Path]:
    """The descriptions of the training, the newest last."""
    found = [
        (int(folder.name.split("-")[1]), folder / _STATE)
        for folder in directory.iterdir()
        if _CHECKPOINT.fullmatch(folder.name)
    ]
    own = directory / _STATE
    last = [own] if own.exists() else []
    return [path for _, path in sorted(found) if path.exists()] + last


class TrainerReader:
    """Takes snapshots of such a folder.

    Curves are what the trainer logged, with the readings of keelback's monitor where its callback
    was there; the alarms are that monitor's.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> Snapshot:
        """The newest checkpoint that can be read.

        Raises:
            InputError: there is none.
        """
        problems: list[Alarm] = []
        for path in reversed(_checkpoints(self._directory)):
            state = self._state(path, problems)
            if state is not None:
                return self._snapshot(path, state, problems)
        reason = problems[-1].message if problems else "no checkpoint in it"
        raise InputError(f"{self._directory}: no training can be read: {reason}")

    def _state(self, path: Path, problems: list[Alarm]) -> dict[str, Any] | None:
        where = short(path.relative_to(self._directory))
        if not path.is_file() or not path.resolve().is_relative_to(self._directory.resolve()):
            problems.append(Alarm(where, f"{where} is no file of the folder; it was not read"))
            return None
        try:
            state = parsed_json(path.read_text())
            int(state["global_step"]), int(state["max_steps"]), list(state["log_history"])
        except (OSError, ValueError, KeyError, TypeError):
            problems.append(Alarm(where, f"{where} is damaged, or being written"))
            return None
        return dict(state)

    def _snapshot(self, path: Path, state: dict[str, Any], problems: list[Alarm]) -> Snapshot:
        step, whole = int(state["global_step"]), int(state["max_steps"])
        age = max(0.0, time.time() - path.stat().st_mtime)
        over: State = "finished" if 0 < whole <= step else "unknown"
        line = f"step {step} of {whole}, as its checkpoint of {in_words(age)} ago says"
        left, seconds = "", None
        if over == "finished":
            line = f"finished: all {counted(whole, 'step')} are done"
        else:
            seconds = self._seconds_left(step, whole, age)
            left = "no estimate before a second checkpoint"
            if seconds is not None:
                left = f"about {in_words(seconds)} left if it is under way, by its checkpoints"
        rows = [row for row in state["log_history"] if isinstance(row, Mapping)]
        curves = curves_of([_without(row) for row in rows], "step")
        last = {name: points[-1][1] for name, points in curves.items()}
        scores = {name: value for name, value in last.items() if name in _SCORES}
        run_state: RunState = "finished" if over == "finished" else "kept"
        run = RunView(short(self._directory.name), run_state, "", step, scores, curves)
        alarms = [*problems, *_alarms(state)]
        return Snapshot(
            directory=short(self._directory),
            kind="trainer",
            state=over,
            line=line,
            left=left,
            seconds_left=seconds,
            x_label="step",
            runs=[run],
            alarms=alarms,
        )

    def _seconds_left(self, step: int, whole: int, age: float) -> float | None:
        """By the times at which the last two checkpoints were written."""
        known = [
            (int(path.parent.name.split("-")[1]), path.stat().st_mtime)
            for path in _checkpoints(self._directory)
            if path.parent != self._directory
        ]
        if len(known) < 2:
            return None
        (first, started), (last, ended) = known[-2:]
        if ended <= started:
            return None
        return max(0.0, (whole - step) * (ended - started) / (last - first) - age)


def _without(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _NOT_CURVES}


def _alarms(state: Mapping[str, Any]) -> list[Alarm]:
    """Those of keelback's monitor, the newest first; trends that are not numbers come first."""
    found = [
        Alarm(f"step {row.get('step')}", f"{name} is {value}: not a finite number")
        for row in state["log_history"]
        if isinstance(row, Mapping)
        for name, value in row.items()
        if isinstance(value, float) and finite(value) is None and name != "epoch"
    ][-_ALARMS_SHOWN:]
    for alarm in reversed(_alarms_of_monitor(state)):
        if isinstance(alarm, Mapping) and len(found) < _ALARMS_SHOWN:
            where = f"step {alarm.get('step')}, {alarm.get('layer')}"
            found.append(Alarm(short(where), short(alarm.get("message")), "warning"))
    return [Alarm(short(alarm.where), short(alarm.message), alarm.weight) for alarm in found]


def _alarms_of_monitor(state: Mapping[str, Any]) -> Sequence[Any]:
    callbacks = state.get("stateful_callbacks")
    kept = callbacks.get("MonitorCallback") if isinstance(callbacks, Mapping) else None
    alarms: list[Any] = []
    for one in kept if isinstance(kept, list) else [kept]:
        found: Any = one
        for name in ("attributes", "earlier", "alarms"):
            found = found.get(name) if isinstance(found, Mapping) else None
        alarms += found if isinstance(found, list) else []
    return alarms

"""Snapshots of a store of keelback: plans, runs, survivors, alarms and the time left."""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keelback.errors import InputError
from keelback.progress import in_words
from keelback.sweeps.selection import flatten
from keelback.sweeps.store import Store, StoredRun
from keelback.watch._pace import said, seconds_left, work_of
from keelback.watch._plans import PlannedRun, PlannedRuns, Plans
from keelback.watch._records import Checkpointed, Records
from keelback.watch._snapshot import (
    Alarm,
    Group,
    Plan,
    Points,
    RunView,
    Snapshot,
    State,
    counted,
    curves_of,
    finite,
    require_inside,
    short,
)

CURVES_SHOWN = 60
"""Finished runs whose curves are read: the newest."""

_LOOKS = 4
_SECONDS_BETWEEN_LOOKS = 0.1
_SCORES = ("test_accuracy", "train_accuracy", "loss")
_LOGGED = ("loss", "running_accuracy", "s_A")
_SEEDS = ("seed", "data_seed")
_NAMED = 3


class StoreReader:
    """Takes snapshots of a store; what has not changed since the last one is not read again.

    Raises:
        InputError: it holds no store of this version, or its manifest leads out of it.
    """

    def __init__(self, directory: Path, epochs: int | None = None) -> None:
        require_inside(directory / "manifest.json", directory)
        self._store = Store.open(directory)
        self._epochs = epochs
        self._plans, self._records = Plans(self._store), Records(self._store)
        self._steps: dict[str, list[tuple[int, float]]] = {}

    def read(self) -> Snapshot:
        """The store as it is now.

        Raises:
            InputError: it has vanished since it was opened, or its lock leads out of it.
        """
        require_inside(self._store.directory / "lock", self._store.directory)
        Store.open(self._store.directory)
        plans = self._plans.read()
        finished, problems = self._records.finished()
        held = self._held(plans, {run.name for run in finished})
        kept, of_checkpoints = self._records.checkpoints()
        seen = _Seen(plans, finished, held, kept)
        runs, of_curves = self._runs(seen)
        left, seconds = self._left(seen)
        return Snapshot(
            directory=short(self._store.directory),
            kind="sweep",
            state=seen.state,
            line=seen.line(),
            left=left,
            seconds_left=seconds,
            plans=[seen.plan(plan) for plan in plans if not plan.problem],
            groups=_groups(seen),
            runs=runs,
            alarms=[
                *_unread(problems, of_checkpoints),
                *of_curves,
                *(Alarm(p.name, short(p.problem), "warning") for p in plans if p.problem),
                *_alarms_under_way(seen.kept),
                *_alarms(finished),
            ],
            notes=_notes(finished),
        )

    def _held(self, plans: Sequence[PlannedRuns], finished: set[str]) -> frozenset[int]:
        """The batches under way; between one batch and the next a sweep holds none for a moment."""
        lacking = any(plan.runs.keys() - finished for plan in plans)
        for _ in range(_LOOKS):
            held = self._store.claims_held()
            if held or not lacking:
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return held

    def _runs(self, seen: "_Seen") -> tuple[list[RunView], list[Alarm]]:
        """What is under way first, then what is finished, the newest first."""
        settings = _settings([(run.name, run.fields) for run in seen.finished])
        newest = sorted(seen.finished, key=lambda run: str(run.provenance.get("date")))[::-1]
        found = [
            RunView(
                name=short(one.name),
                state=seen.state_of_checkpoint,
                epoch=one.epoch,
                scores={n: curves[n][-1][1] for n in _LOGGED if n in curves},
                curves=curves,
            )
            for one in seen.kept
            for curves in [curves_of(one.history, "epoch")]
        ]
        alarms = []
        for index, run in enumerate(newest):
            curves: Mapping[str, Points] = {}
            try:
                curves = self._records.curves(run) if index < CURVES_SHOWN else {}
            except InputError as error:
                alarms.append(Alarm(run.name, short(error)))
            epoch = run.summary.get("epochs")
            found.append(
                RunView(
                    name=run.name,
                    state="finished" if _survived(run) else "diverged",
                    setting=settings[run.name],
                    epoch=epoch if isinstance(epoch, int) else None,
                    scores=_scores(run),
                    curves=curves,
                )
            )
        return found, alarms

    def _left(self, seen: "_Seen") -> tuple[str, float | None]:
        """The estimate as a sentence, and in seconds where one number stands for the folder."""
        if seen.state == "finished":
            return "", None
        estimates = [seen.seconds_left(plan) for plan in seen.plans if seen.lacking(plan)]
        known = [seconds for seconds in estimates if seconds is not None]
        if estimates:
            total = sum(known) if len(known) == len(estimates) else None
            return said(total, len(seen.finished), bool(seen.held)), total
        if seen.kept:
            return self._left_of_training(seen.kept)
        return "no estimate: no plan in the store says how much is to come", None

    def _left_of_training(self, kept: Sequence[Checkpointed]) -> tuple[str, float | None]:
        """By how fast its checkpoints came while this reader looked."""
        paces = []
        for one in kept:
            steps = self._steps.setdefault(one.name, [])
            if not steps or steps[-1][0] != one.epoch:
                steps.append((one.epoch, one.written))
            (first, began), (last, ended) = steps[0], steps[-1]
            if last > first and ended > began:
                paces.append(((ended - began) / (last - first), one))
        if not paces:
            return "no estimate before the next checkpoint is written", None
        pace, slowest = max(paces, key=lambda found: found[0])
        if self._epochs is None:
            return f"{in_words(pace)} per epoch; --epochs N gives the time left", None
        passed = max(0.0, time.time() - slowest.written)
        seconds = max(0.0, pace * (self._epochs - slowest.epoch) - passed)
        return f"about {in_words(seconds)} left, {in_words(pace)} per epoch", seconds


class _Seen:
    """What was read of a store at one moment, and what follows from it."""

    def __init__(
        self,
        plans: Sequence[PlannedRuns],
        finished: Sequence[StoredRun],
        held: frozenset[int],
        kept: Sequence[Checkpointed],
    ) -> None:
        self.plans, self.held = plans, held
        self.finished = finished
        self.by_name = {run.name: run for run in finished}
        self.kept = [one for one in kept if one.name not in self.by_name]
        self.planned = {name: run for plan in plans for name, run in plan.runs.items()}
        self.unplanned = len(held - {run.byte for run in self.planned.values()})

    def lacking(self, plan: PlannedRuns) -> list[PlannedRun]:
        return [run for name, run in plan.runs.items() if name not in self.by_name]

    def under_way(self, runs: Iterable[PlannedRun]) -> int:
        """How many of these unfinished runs are in a batch that a process executes."""
        return sum(run.byte in self.held for run in runs)

    @property
    def state(self) -> State:
        if self.held:
            return "under way"
        if self.kept or self.planned.keys() - self.by_name.keys() or not self.finished:
            return "stopped"
        return "unknown" if any(plan.problem for plan in self.plans) else "finished"

    @property
    def state_of_checkpoint(self) -> Any:
        return "under way" if self.unplanned >= len(self.kept) > 0 else "kept"

    def line(self) -> str:
        """Where the store stands, in one sentence."""
        done, whole = len(self.finished), len(self.planned.keys() | self.by_name.keys())
        known = bool(self.planned) and not any(plan.problem for plan in self.plans)
        runs = f"{counted(done, 'run')} finished"
        if known and self.state != "finished":
            runs = f"{done} of {counted(whole, 'run')} finished"
        diverged = sum(not _survived(run) for run in self.finished)
        runs += f", {diverged} of them diverged" if diverged else ""
        if self.state == "under way":
            return f"under way: {runs}, {counted(len(self.held), 'batch', 'batches')} being run"
        if self.state == "finished":
            return f"{'all ' if known else ''}{runs}; nothing is under way"
        if self.state == "unknown":
            return f"{runs}; nothing is under way; what else is planned is not known"
        if self.kept:
            epochs = ", ".join(str(one.epoch) for one in self.kept[:_NAMED])
            runs += f", {counted(len(self.kept), 'training')} kept after epoch {epochs}"
        elif not done and not self.planned:
            return "nothing is finished yet, and no process works on it: about to start, or stopped"
        return f"{runs}; no process works on it: about to start, or stopped"

    def plan(self, plan: PlannedRuns) -> Plan:
        own = [self.by_name[name] for name in plan.runs if name in self.by_name]
        lacking = self.lacking(plan)
        return Plan(
            plan.name,
            len(plan.runs),
            len(own),
            self.under_way(lacking),
            sum(map(_survived, own)),
            self.seconds_left(plan) if lacking else None,
        )

    def seconds_left(self, plan: PlannedRuns) -> float | None:
        works = [
            work
            for name, run in plan.runs.items()
            if name in self.by_name
            and (work := work_of(run.cost, self.by_name[name].provenance)) is not None
        ]
        lacking = self.lacking(plan)
        cost, busy = sum(run.cost for run in lacking), bool(self.under_way(lacking))
        return seconds_left(works, cost, now=time.time(), under_way=busy) if works else None


def _survived(run: StoredRun) -> bool:
    return run.summary.get("diverged") is not True


def _scores(run: StoredRun) -> dict[str, float]:
    found = {name: finite(run.summary.get(name)) for name in _SCORES}
    return {name: value for name, value in found.items() if value is not None}


def _settings(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """What tells runs apart but their seeds, by their names: "seq_len 25, abscissa 0"."""
    rows = {name: flatten(fields) for name, fields in runs}
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    telling = [
        column
        for column in columns
        if column.rsplit(".", 1)[-1] not in _SEEDS
        and len({repr(row.get(column)) for row in rows.values()}) > 1
    ]
    return {
        name: short(
            ", ".join(
                f"{short(column.rsplit('.', 1)[-1])} {short(row[column])}"
                for column in telling
                if column in row
            )
        )
        for name, row in rows.items()
    }


def _groups(seen: _Seen) -> list[Group]:
    """Planned and finished runs by what they differ in but seeds, in the order of the plans."""
    fields = {name: run.fields for name, run in seen.planned.items()}
    fields |= {run.name: run.fields for run in seen.finished}
    settings = _settings(list(fields.items()))
    names: dict[str, list[str]] = {}
    for name, setting in settings.items():
        names.setdefault(setting, []).append(name)
    return [_group(seen, setting, own) for setting, own in names.items()]


def _group(seen: _Seen, setting: str, names: Sequence[str]) -> Group:
    planned = [seen.planned[name] for name in names if name in seen.planned]
    finished = [seen.by_name[name] for name in names if name in seen.by_name]
    survivors = [run for run in finished if _survived(run)]
    found = [_scores(run) for run in survivors]
    known = {name: [own[name] for own in found if name in own] for name in _SCORES}
    return Group(
        setting or "all alike but for seeds",
        len(planned) if planned else None,
        len(finished),
        seen.under_way(run for run in planned if run.name not in seen.by_name),
        len(survivors),
        {name: sum(values) / len(values) for name, values in known.items() if values},
    )


def _unread(problems: Mapping[str, str], of_checkpoints: Mapping[str, str]) -> list[Alarm]:
    runs = [Alarm(short(name), f"not counted: {short(why)}") for name, why in problems.items()]
    kept = [
        Alarm("checkpoint", f"{short(name)} {short(why)}", "warning")
        for name, why in of_checkpoints.items()
    ]
    return [*runs, *kept]


def _alarms(finished: Sequence[StoredRun]) -> list[Alarm]:
    """Runs that diverged, and those of which clipping left nothing of some gradients."""
    alarms = []
    for run in finished:
        summary = run.summary
        if not _survived(run):
            epoch, step, tensor = (
                short(summary.get(f"diverged_{part}")) for part in ("epoch", "step", "tensor")
            )
            alarms.append(
                Alarm(run.name, f"diverged in epoch {epoch}, step {step}: {tensor} was not finite")
            )
        elif (finite(summary.get("zeroed_steps")) or 0) > 0:
            steps = short(summary["zeroed_steps"])
            alarms.append(
                Alarm(run.name, f"{steps} steps lost: the gradient's norm overflowed", "warning")
            )
    return alarms


def _alarms_under_way(kept: Sequence[Checkpointed]) -> list[Alarm]:
    """Trainings that have diverged already, and those whose states grow from token to token."""
    alarms = []
    for one in kept:
        growth = finite(one.history[-1].get("growth")) if one.history else None
        if one.diverged:
            alarms.append(Alarm(short(one.name), f"diverged after epoch {one.epoch}"))
        elif growth is not None and growth > 1:
            message = f"states grow by a factor of up to {growth:.4g} per token"
            alarms.append(Alarm(short(one.name), message, "warning"))
    return alarms


def _notes(finished: Sequence[StoredRun]) -> list[str]:
    if len(finished) <= CURVES_SHOWN:
        return []
    return [f"curves are those of the {CURVES_SHOWN} newest of {len(finished)} finished runs"]

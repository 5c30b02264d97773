"""What a worker does, in whatever process and on whatever machine: execute batches into a store."""

import pickle
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from keelback.errors import InputError, JobError, PluginError, in_one_line
from keelback.plugins import (
    PluginFile,
    blame,
    load_source,
    loaded_plugins,
    origins,
    registered_outside,
)
from keelback.registry import Registry
from keelback.sweeps.provenance import provenance
from keelback.sweeps.run import Run, results_of
from keelback.sweeps.store import Store

BatchProgress = Callable[[int, float], None]
"""Called with the index of a batch and the share of it that is done."""

_SECONDS_BETWEEN_REPORTS = 0.2


@dataclass(frozen=True)
class Job:
    """Batches that one worker executes one after the other, by their index in the sweep."""

    batches: Mapping[int, Sequence[Run]]
    directory: Path
    memory: int
    """Bytes that the neediest of the batches takes."""


@dataclass(frozen=True)
class BatchEnd:
    """How a batch ended.

    `busy`: another sweep is executing it. `failed`: this batch alone. `plugin failed`: this batch,
    in code from outside keelback. `sweep failed`: no other batch would fare better, for the store
    cannot be written, or the worker cannot load what the runs need.
    """

    index: int
    state: Literal["done", "busy", "failed", "plugin failed", "sweep failed"]
    message: str = ""


def execute_job(job: Job, report: BatchProgress) -> list[BatchEnd]:
    """Execute the batches of a job, up to the first that finds the store failing."""
    ends: list[BatchEnd] = []
    for index, runs in job.batches.items():
        ends.append(_execute_batch(index, runs, job.directory, _Throttled(index, report)))
        if ends[-1].state == "sweep failed":
            break
    return ends


@dataclass(frozen=True)
class PackedJob:
    """A job on its way to another process, with the plugin files that must be loaded there first.

    Parts that were registered by importable code come along by their names, which imports them.
    """

    plugins: tuple[PluginFile, ...]
    pickled: bytes
    first: int
    """The index of the job's first batch."""

    @classmethod
    def of(cls, job: Job, dumps: Callable[[Any], bytes] = pickle.dumps) -> "PackedJob":
        """Pack a job.

        Raises:
            InputError: it cannot be pickled.
        """
        runs = [run for batch in job.batches.values() for run in batch]
        parts = registered_outside(part for run in runs for part in run.parts().values())
        try:
            pickled = dumps((parts, job))
        except Exception as error:
            raise InputError(f"a run cannot be sent elsewhere: {in_one_line(error)}") from error
        return cls(tuple(loaded_plugins()), pickled, next(iter(job.batches)))

    def unpack(self) -> Job:
        """The job, once everything that it needs is loaded.

        Raises:
            InputError: something that it needs cannot be loaded.
        """
        for plugin in self.plugins:
            load_source(plugin)
        try:
            parts, job = pickle.loads(self.pickled)
            for word, part in parts:
                Registry.of(word).register(part)
        except Exception as error:
            raise InputError(
                f"a worker cannot load what the runs need: {in_one_line(error)}; code of a session "
                "or a script goes into a file, which keelback.load_plugin loads"
            ) from error
        return cast(Job, job)


def execute_packed(packed: PackedJob, report: BatchProgress) -> list[BatchEnd]:
    """Execute a job that another process packed."""
    try:
        job = packed.unpack()
    except InputError as error:
        return [BatchEnd(packed.first, "sweep failed", str(error))]
    return execute_job(job, report)


class _Throttled:
    """Progress of one batch, reported a few times a second and at its end."""

    def __init__(self, index: int, report: BatchProgress) -> None:
        self._index = index
        self._report = report
        self._last = time.monotonic()

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_REPORTS:
            self._last = now
            self._report(self._index, share)


def _execute_batch(
    index: int, runs: Sequence[Run], directory: Path, progress: Callable[[float], None]
) -> BatchEnd:
    store = Store(directory)
    try:
        with store.claim(runs[0].batch_key()) as claimed:
            if not claimed:
                return BatchEnd(index, "busy")
            missing = [run for run in runs if run not in store]
            return _execute_missing(index, missing, store, progress)
    except JobError as error:
        return BatchEnd(index, "sweep failed", str(error))


def _execute_missing(
    index: int, missing: Sequence[Run], store: Store, progress: Callable[[float], None]
) -> BatchEnd:
    """Execute runs of one batch into the store; only the store's own failures are raised."""
    if not missing:
        return BatchEnd(index, "done")
    started = time.monotonic()
    results = results_of(missing, progress)
    while True:
        try:
            run, result = next(results)
        except StopIteration:
            return BatchEnd(index, "done")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return _failed(index, missing[0], error)
        seconds = round(time.monotonic() - started, 3)
        store.add(run, result, provenance_of(run) | {"seconds_of_batch": seconds})


def _failed(index: int, run: Run, error: BaseException) -> BatchEnd:
    """How a batch ended that raised an error; a bug of keelback's own comes with its traceback."""
    error = blame(error) or error
    if isinstance(error, PluginError):
        return BatchEnd(index, "plugin failed", str(error))
    if isinstance(error, InputError | JobError):
        return BatchEnd(index, "failed", str(error))
    if not isinstance(error, Exception):
        raise error
    traceback.print_exception(error)
    return BatchEnd(index, "failed", f"run {run.name}: {type(error).__name__}: {error}")


def provenance_of(run: Run) -> dict[str, Any]:
    """`provenance()`, with the files and packages of the run's parts from outside."""
    made_by = origins(run.parts())
    return {**provenance(), **({"plugins": made_by} if made_by else {})}

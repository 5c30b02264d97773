"""What a worker does, in whatever process and on whatever machine: execute batches into a store."""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from keelback.errors import InputError, JobError
from keelback.sweeps.provenance import provenance
from keelback.sweeps.run import Run
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

    `busy`: another sweep is executing it. `failed`: this batch alone. `store failed`: the store
    cannot be written, and no other batch could be stored either.
    """

    index: int
    state: Literal["done", "busy", "failed", "store failed"]
    message: str = ""


def execute_job(job: Job, report: BatchProgress) -> list[BatchEnd]:
    """Execute the batches of a job, up to the first that finds the store failing."""
    ends: list[BatchEnd] = []
    for index, runs in job.batches.items():
        ends.append(_execute_batch(index, runs, job.directory, _Throttled(index, report)))
        if ends[-1].state == "store failed":
            break
    return ends


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
        return BatchEnd(index, "store failed", str(error))


def _execute_missing(
    index: int, missing: Sequence[Run], store: Store, progress: Callable[[float], None]
) -> BatchEnd:
    """Execute runs of one batch into the store; only the store's own failures are raised."""
    if not missing:
        return BatchEnd(index, "done")
    started = time.monotonic()
    results = type(missing[0]).execute(missing, progress)
    while True:
        try:
            run, result = next(results)
        except StopIteration:
            return BatchEnd(index, "done")
        except (InputError, JobError) as error:
            return BatchEnd(index, "failed", str(error))
        except Exception as error:
            traceback.print_exc()
            message = f"run {missing[0].name}: {type(error).__name__}: {error}"
            return BatchEnd(index, "failed", message)
        seconds = round(time.monotonic() - started, 3)
        store.add(run, result, {**provenance(), "seconds_of_batch": seconds})

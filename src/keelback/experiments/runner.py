"""The runner: executes what a sweep still lacks, several batches side by side, into its store."""

import multiprocessing
import os
import signal
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from queue import Empty
from typing import Any

from keelback.errors import InputError, JobError
from keelback.experiments.provenance import provenance
from keelback.experiments.run import Run
from keelback.experiments.store import Store, StoredRun

SweepProgress = Callable[[float, float], None]
"""Called with the work done and the whole work, in units of the runs' cost."""

_POLL_SECONDS = 0.2
_BUSY_SECONDS = 1.0
_DONE, _BUSY = "done", "busy"

_events: Any = None
"""In a worker process: the queue that takes (batch index, share done) to the runner."""


def sweep(
    runs: Sequence[Run],
    store: Store,
    *,
    workers: int | None = None,
    on_progress: SweepProgress | None = None,
) -> list[StoredRun]:
    """Execute the runs that the store lacks and return all of them, in order.

    Runs with one `batch_key` execute together in one process; batches execute side by side in
    `workers` processes (one a core if not given) that share the cores evenly. A batch that another
    sweep on the same store is executing is left to it and its results are taken.

    Raises:
        JobError: a run failed or a worker was killed; what was finished is in the store.
    """
    batches = _batches([run for run in runs if run not in store])
    if batches:
        workers = max(1, min(workers or available_cores(), len(batches)))
        _Sweep(batches, store, workers, on_progress).run()
    return [store.get(run.name) for run in runs]


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _batches(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs grouped by batch key, the dearest group first."""
    groups: dict[str, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        groups[run.batch_key()][run.name] = run
    batches = [list(group.values()) for group in groups.values()]
    return sorted(batches, key=lambda batch: -sum(run.cost() for run in batch))


class _Sweep:
    """One pass over the pending batches with a pool of worker processes."""

    def __init__(
        self,
        batches: Sequence[list[Run]],
        store: Store,
        workers: int,
        on_progress: SweepProgress | None,
    ) -> None:
        self._batches = batches
        self._store = store
        self._workers = workers
        self._on_progress = on_progress
        self._costs = [sum(run.cost() for run in batch) for batch in batches]
        self._shares = [0.0] * len(batches)
        self._failures: list[str] = []

    def run(self) -> None:
        context = multiprocessing.get_context("spawn")
        events = context.Queue()
        threads = max(1, available_cores() // self._workers)
        pool = ProcessPoolExecutor(
            self._workers, context, initializer=_start_worker, initargs=(events, threads)
        )
        try:
            self._drive(pool, events)
        except BrokenProcessPool:
            raise JobError(
                "a worker process was killed (out of memory?); "
                "the same command goes on from what was finished"
            ) from None
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.kill()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if self._failures:
            raise JobError(
                f"{len(self._failures)} batches failed, the others are stored; "
                f"first: {self._failures[0]}"
            )

    def _drive(self, pool: ProcessPoolExecutor, events: Any) -> None:
        waiting = deque(range(len(self._batches)))
        busy_since: dict[int, float] = {}
        running: dict[Future[str], int] = {}
        while waiting or running:
            while waiting and len(running) < self._workers:
                index = waiting.popleft()
                pause = busy_since.get(index, 0.0) + _BUSY_SECONDS - time.monotonic()
                if pause > 0 and not running:
                    time.sleep(pause)
                task = pool.submit(
                    _execute_batch, index, self._batches[index], self._store.directory
                )
                running[task] = index
            finished, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            self._take_progress(events)
            for task in finished:
                index = running.pop(task)
                outcome = task.result()
                if outcome == _BUSY:
                    busy_since[index] = time.monotonic()
                    waiting.append(index)
                    continue
                if outcome != _DONE:
                    self._failures.append(outcome)
                self._note(index, 1.0)

    def _take_progress(self, events: Any) -> None:
        while True:
            try:
                index, share = events.get_nowait()
            except Empty:
                return
            self._note(index, share)

    def _note(self, index: int, share: float) -> None:
        self._shares[index] = max(self._shares[index], share)
        if self._on_progress is not None:
            done = sum(c * s for c, s in zip(self._costs, self._shares, strict=True))
            self._on_progress(done, sum(self._costs))


def _start_worker(events: Any, threads: int) -> None:
    global _events
    import torch

    _events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def _execute_batch(index: int, runs: list[Run], directory: Path) -> str:
    """Execute one batch into the store; `done`, `busy` (another sweep has it), or what failed."""
    store = Store(directory)
    with store.claim(runs[0].batch_key()) as claimed:
        if not claimed:
            return _BUSY
        missing = [run for run in runs if run not in store]
        if not missing:
            return _DONE
        try:
            started = time.monotonic()
            for run, result in type(missing[0]).execute(
                missing, lambda share: _events.put((index, share))
            ):
                seconds = round(time.monotonic() - started, 3)
                store.add(run, result, {**provenance(), "seconds_of_batch": seconds})
        except InputError as error:
            return str(error)
        except Exception as error:
            traceback.print_exc()
            return f"run {missing[0].name}: {type(error).__name__}: {error}"
    return _DONE

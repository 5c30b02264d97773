"""The runner: executes what a sweep still lacks, several batches side by side, into its store."""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from keelback.errors import InputError, JobError, PluginError
from keelback.sweeps.executor import Executor
from keelback.sweeps.local import LocalExecutor, available_cores
from keelback.sweeps.run import Run
from keelback.sweeps.store import Store, StoredRun
from keelback.sweeps.worker import BatchEnd, Job

__all__ = ["SweepProgress", "available_cores", "sweep"]

SweepProgress = Callable[[float, float], None]
"""Called with the work done and the whole work, in units of the runs' cost."""

_log = logging.getLogger("keelback")

_POLL_SECONDS = 0.2
_BUSY_SECONDS = 1.0
_BATCHES_PER_JOB = 64
_JOBS_PER_WORKER = 8


def sweep(
    runs: Sequence[Run],
    store: Store,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    on_progress: SweepProgress | None = None,
) -> list[StoredRun]:
    """Execute the runs that the store lacks and return all of them, in order.

    Runs with one `batch_key` execute together in one process; batches execute side by side in
    `workers` processes (one a core if not given) that share the cores evenly, or wherever the
    `executor` executes them. A batch that another sweep on the same store is executing is left to
    it and its results are taken.

    Raises:
        InputError: a run in the store is damaged.
        PluginError: a part from outside keelback went wrong in a run; what was finished is in the
            store.
        JobError: a run failed, a worker was killed, or the store cannot be written; what was
            finished is in the store.

    Examples:
        >>> from pathlib import Path
        >>> model = {"kind": "selective-ssm", "vocab_size": 2, "d_model": 4}
        >>> settings = {"seq_len": 5, "n_train": 20, "n_test": 20}
        >>> given = {"model": model, "task_settings": settings, "recipe": {"epochs": 1}}
        >>> run = TrainingRun(task="majority", seed=1, **given)
        >>> with Store.created(Path("runs")) as store:
        ...     first = train_single(run, store)
        ...     [stored] = sweep([run], store)  # finished already: not run again
        >>> stored.name == first.name
        True
    """
    finished = {run.name: store.get(run.name) for run in runs if run in store}
    batches = _batches([run for run in runs if run.name not in finished])
    if finished:
        _log.info("%d of %d runs are there already", len(finished), len(runs))
    if batches:
        store.sweep_up(run for batch in batches for run in batch)
        _Sweep(batches, store, executor or LocalExecutor(workers), on_progress).run()
    return [finished.get(run.name) or _result(store, run) for run in runs]


def _result(store: Store, run: Run) -> StoredRun:
    try:
        return store.get(run.name)
    except InputError as error:
        raise JobError(f"a run that was stored cannot be read: {error}") from None


def _batches(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs grouped by batch key, the dearest group first."""
    groups: dict[str, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        groups[run.batch_key()][run.name] = run
    batches = [list(group.values()) for group in groups.values()]
    return sorted(batches, key=_cost, reverse=True)


def _cost(batch: Sequence[Run]) -> float:
    return sum(run.cost() for run in batch)


class _Sweep:
    """One pass over the pending batches with an executor."""

    def __init__(
        self,
        batches: Sequence[list[Run]],
        store: Store,
        executor: Executor,
        on_progress: SweepProgress | None,
    ) -> None:
        self._batches = batches
        self._store = store
        self._executor = executor
        self._on_progress = on_progress
        self._costs = [_cost(batch) for batch in batches]
        self._memory = [sum(run.memory() for run in batch) for batch in batches]
        self._shares = [0.0] * len(batches)
        self._whole = sum(self._costs)
        self._done = 0.0
        self._unfinished = len(batches)
        self._waiting = deque(range(len(batches)))
        self._waiting_cost = self._whole
        self._busy_until: dict[int, float] = {}
        self._failures: list[str] = []
        self._plugin_failures: list[str] = []

    def run(self) -> None:
        self._workers = self._executor.start(len(self._batches), self._note)
        try:
            self._drive()
        finally:
            self._executor.stop()
        if self._plugin_failures:
            more = len(self._plugin_failures) + len(self._failures) - 1
            others = f" (batches that failed beside this one: {more})" if more else ""
            raise PluginError(f"{self._plugin_failures[0]}{others}")
        if self._failures:
            raise JobError(
                f"{len(self._failures)} batches failed, the others are stored; "
                f"first: {self._failures[0]}"
            )

    def _drive(self) -> None:
        running = 0
        while self._waiting or running:
            while (job := self._next_job()) is not None:
                self._executor.submit(job)
                running += 1
            if not running:
                time.sleep(_POLL_SECONDS)
            for ends in self._executor.wait(_POLL_SECONDS):
                running -= 1
                for end in ends:
                    self._take_end(end)

    def _next_job(self) -> Job | None:
        """The dearest waiting batches that there is room for: one, or many cheap ones."""
        first = self._next_index(None)
        if first is None:
            return None
        batches = {first: self._batches[first]}
        share = self._waiting_cost / (_JOBS_PER_WORKER * self._workers)
        cost = self._take(first)
        while len(batches) < _BATCHES_PER_JOB:
            index = self._next_index(self._memory[first])
            if index is None or cost + self._costs[index] > share:
                break
            batches[index] = self._batches[index]
            cost += self._take(index)
        return Job(batches, self._store.directory.absolute(), self._memory[first])

    def _next_index(self, memory: int | None) -> int | None:
        """The first waiting batch that no other sweep holds and that fits.

        What fits is decided by the executor or, for a job that was begun, by its `memory`.
        """
        now = time.monotonic()
        refused = float("inf")
        for index in self._waiting:
            need = self._memory[index]
            if self._busy_until.get(index, 0.0) > now or need >= refused:
                continue
            if need <= memory if memory is not None else self._executor.has_room(need):
                return index
            refused = min(refused, need)
        return None

    def _take(self, index: int) -> float:
        self._waiting.remove(index)
        self._waiting_cost -= self._costs[index]
        return self._costs[index]

    def _take_end(self, end: BatchEnd) -> None:
        if end.state == "sweep failed":
            raise JobError(end.message)
        if end.state == "busy":
            self._busy_until[end.index] = time.monotonic() + _BUSY_SECONDS
            self._waiting.append(end.index)
            self._waiting_cost += self._costs[end.index]
            return
        if end.state == "failed":
            self._failures.append(end.message)
        if end.state == "plugin failed":
            self._plugin_failures.append(end.message)
        self._unfinished -= 1
        self._note(end.index, 1.0)

    def _note(self, index: int, share: float) -> None:
        gained = max(0.0, share - self._shares[index])
        self._shares[index] += gained
        self._done += gained * self._costs[index]
        if self._on_progress is not None:
            self._on_progress(self._done if self._unfinished else self._whole, self._whole)

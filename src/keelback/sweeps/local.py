"""The local executor: worker processes on this machine's cores."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from queue import Empty
from typing import Any

from keelback.errors import InputError, JobError
from keelback.sweeps.executor import Executor
from keelback.sweeps.worker import BatchEnd, BatchProgress, Job, PackedJob, execute_packed

WORKER_MEMORY = 400 * 2**20
"""Bytes that a worker takes before it executes anything: Python, PyTorch and compiled kernels."""

_USABLE = 0.9
"""The share of the memory that is free at the start which a sweep may plan with."""

_progress: Any = None
"""In a worker process: the queue that takes (batch index, share done) to the runner."""


class LocalExecutor(Executor):
    """Worker processes, each pinned to its own share of the cores and with as many threads.

    A job whose memory, by its runs' own estimate, does not fit beside what is running waits.
    The workers end with the process that started them, however that ends.

    Args:
        workers: how many; one a core if not given.

    Raises:
        InputError: fewer than one.
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"the number of workers is {workers}; it must be 1 or more")
        self._asked = workers
        self._pool: ProcessPoolExecutor | None = None
        self._running: dict[Future[list[BatchEnd]], int] = {}

    def start(self, jobs: int, report: BatchProgress) -> int:
        """Start the workers, no more than there are jobs."""
        self._report = report
        self._workers = max(1, min(self._asked or available_cores(), jobs))
        context = multiprocessing.get_context("spawn")
        self._progress = context.Queue()
        shares = share_cores(sorted(os.sched_getaffinity(0)), self._workers)
        self._pool = ProcessPoolExecutor(
            self._workers,
            context,
            initializer=_start_worker,
            initargs=(self._progress, context.Value("i", 0), shares),
        )
        self._budget = _USABLE * available_memory()
        return self._workers

    def has_room(self, memory: int) -> bool:
        """A worker is idle, and the estimates of what runs leave enough of the free memory."""
        if not self._running:
            return True
        promised = sum(self._running.values())
        need = promised + memory + WORKER_MEMORY * (len(self._running) + 1)
        return len(self._running) < self._workers and need <= self._budget

    def submit(self, job: Job) -> None:
        """Hand the job to an idle worker."""
        assert self._pool is not None
        self._running[self._pool.submit(_work, PackedJob.of(job))] = job.memory

    def wait(self, seconds: float) -> list[list[BatchEnd]]:
        """Report progress from all workers; give the jobs that are over."""
        finished, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        self._report_progress()
        for future in finished:
            del self._running[future]
        try:
            return [future.result() for future in finished]
        except BrokenProcessPool:
            raise JobError(
                "a worker process was killed (out of memory?); "
                "the same command continues from what was finished"
            ) from None

    def _report_progress(self) -> None:
        while True:
            try:
                self._report(*self._progress.get_nowait())
            except Empty:
                return

    def stop(self) -> None:
        """Kill the workers, of which none has anything left to finish.

        Asked to end they might not: one that was killed while it waited for a job holds the lock
        under which the others wait.
        """
        if self._pool is None:
            return
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool, self._running = None, {}


def available_cores() -> int:
    """How many cores this process may use.

    Examples:
        >>> available_cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0))


def share_cores(cores: Sequence[int], workers: int) -> list[list[int]]:
    """The cores of each worker: as evenly as they go, or one each in turn where they are fewer."""
    if workers > len(cores):
        return [[cores[worker % len(cores)]] for worker in range(workers)]
    bounds = [len(cores) * worker // workers for worker in range(workers + 1)]
    return [list(cores[bounds[w] : bounds[w + 1]]) for w in range(workers)]


def available_memory() -> float:
    """Bytes that new processes may take: the machine's free memory, and the control group's."""
    free = float("inf")
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            free = 1024.0 * int(line.split()[1])
    group = Path("/sys/fs/cgroup")
    limit, used = _read(group / "memory.max").strip(), _read(group / "memory.current").strip()
    if limit.isdigit() and used.isdigit():
        free = min(free, float(int(limit) - int(used)))
    return free


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _start_worker(progress: Any, counter: Any, shares: list[list[int]]) -> None:
    global _progress
    import torch

    _progress = progress
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with counter.get_lock():
        cores = shares[counter.value % len(shares)]
        counter.value += 1
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))


def _end_with_parent() -> None:
    """Without this a worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _work(packed: PackedJob) -> list[BatchEnd]:
    return execute_packed(packed, lambda index, share: _progress.put((index, share)))

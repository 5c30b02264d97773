"""Sharing a range of work between threads.

Numba's own parallel loops depend on a threading layer: of the two that come with it, `workqueue`
must not be entered from two threads at once and GNU OpenMP must not be used after a fork. The
kernels release the GIL, so a pool of Python threads serves as well, from any thread and in any
process.
"""

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

import torch
from numba.core import config as numba_config

# Numba sets its attributes while it is imported, out of sight of type checkers.
_settings: Any = numba_config
_WORTH_A_THREAD = 400.0
"""Microseconds of work for which waking another thread pays."""


def thread_count() -> int:
    """The threads a scan may use: PyTorch's own number, and no more than NUMBA_NUM_THREADS."""
    return min(torch.get_num_threads(), _settings.NUMBA_NUM_THREADS)


_LEAST, _HALF = sys.float_info.min, 0.5


@contextmanager
def flushing() -> Iterator[None]:
    """A block in which this thread takes numbers below the least normal one for zero.

    Decays make many of them, and a processor computes with them a hundred times slower. In float32
    they are below 1.2e-38.
    """
    flushes = _LEAST * _HALF == 0.0
    if not flushes:
        torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if not flushes:
            torch.set_flush_denormal(False)


class _Task:
    """A call that another thread makes, unless it is taken back before it has begun."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._begun, self._ended = threading.Lock(), threading.Lock()
        self._ended.acquire()
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the call, if nobody took it back."""
        if self._begun.acquire(blocking=False):
            try:
                self._call()
            except BaseException as error:
                self._error = error
            finally:
                self._ended.release()

    def take_back_or_join(self) -> None:
        """Take the call back, or wait for its end and raise what it raised."""
        if not self._begun.acquire(blocking=False):
            self._ended.acquire()
            if self._error is not None:
                raise self._error


class _Pool:
    """Threads that wait for tasks. A `ThreadPoolExecutor` takes three times as long to wake one."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[_Task] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0

    def start(self, call: Callable[[], None], times: int) -> list[_Task]:
        """Have `times` threads make a call."""
        if self._threads < times:
            self._grow(times)
        tasks = [_Task(call) for _ in range(times)]
        for task in tasks:
            self._tasks.put(task)
        return tasks

    def _grow(self, threads: int) -> None:
        with self._lock:
            for index in range(self._threads, threads):
                name = f"keelback-scan-{index}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
                self._threads = index + 1

    def _serve(self) -> None:
        torch.set_flush_denormal(True)
        while True:
            self._tasks.get().run()


_pool = _Pool()


_has_run = False
_says_so = False


def _after_fork() -> None:
    """After a fork the child has none of its parent's threads, of ours or of PyTorch's.

    PyTorch's wait for them for ever (GNU OpenMP) unless it is to use the calling thread alone.
    """
    global _pool, _says_so
    _pool = _Pool()
    if _has_run and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        _says_so = True


os.register_at_fork(after_in_child=_after_fork)


def _say_so() -> None:
    global _says_so
    _says_so = False
    warnings.warn(
        "this process was forked from one that had computed: PyTorch and keelback use one thread "
        "here, since PyTorch's OpenMP hangs in such a child (torch.set_num_threads changes it, at "
        "that risk; processes that are spawned have all threads)",
        RuntimeWarning,
        stacklevel=2,
    )


def run_ranges(work: Callable[[int, int], None], count: int, cost: float) -> None:
    """Call `work(start, stop)` on ranges that cover `range(count)`, from several threads where it
    pays, with `flushing`.

    Args:
        work: Runs a range; must release the GIL and be safe to run beside itself.
        count: Units of work.
        cost: A rough estimate of the whole, in microseconds.
    """
    global _has_run
    _has_run = True
    if _says_so:
        _say_so()
    workers = min(count, int(cost / _WORTH_A_THREAD))
    workers = min(workers, thread_count()) if workers > 1 else 1
    if workers == 1:
        with flushing():
            work(0, count)
        return
    ranges = min(count, workers * max(2, min(8, int(cost / workers / 100.0))))
    bounds = [count * i // ranges for i in range(ranges + 1)]
    remaining = iter(list(pairwise(bounds)))

    def drain() -> None:
        for start, stop in remaining:
            work(start, stop)

    tasks = _pool.start(drain, workers - 1)
    try:
        with flushing():
            drain()
    finally:
        for task in tasks:
            # Whoever has not begun by now would find nothing left to do.
            task.take_back_or_join()

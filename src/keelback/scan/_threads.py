"""Sharing a range of work between threads.

Numba's own parallel loops depend on a threading layer: of the two that come with it, `workqueue`
must not be entered from two threads at once and GNU OpenMP must not be used after a fork. The
kernels release the GIL, so a pool of Python threads serves as well, from any thread and in any
process.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import torch
from numba.core import config as numba_config

# Numba sets its attributes while it is imported, out of sight of type checkers.
_settings: Any = numba_config
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_WORTH_A_THREAD = 1000.0
"""Microseconds of work for which waking another thread pays, beside two that share a memory."""


def thread_count() -> int:
    """The threads a scan may use: PyTorch's own number, and no more than NUMBA_NUM_THREADS."""
    return min(torch.get_num_threads(), _settings.NUMBA_NUM_THREADS)


def _forget_pool() -> None:
    """After a fork the child has none of its parent's threads."""
    global _lock, _pool, _pool_size
    _lock, _pool, _pool_size = threading.Lock(), None, 0


os.register_at_fork(after_in_child=_forget_pool)


def _pool_of(size: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < size:
            _pool, _pool_size = ThreadPoolExecutor(size, "keelback-scan"), size
        return _pool


def run_ranges(work: Callable[[int, int], None], count: int, cost: float) -> None:
    """Call `work(start, stop)` on ranges that cover `range(count)`, from several threads where it
    pays.

    Args:
        work: Runs a range; must release the GIL and be safe to run beside itself.
        count: Units of work.
        cost: A rough estimate of the whole, in microseconds.
    """
    workers = min(count, int(cost / _WORTH_A_THREAD))
    workers = min(workers, thread_count()) if workers > 1 else 1
    if workers == 1:
        work(0, count)
        return
    ranges = min(count, workers * max(2, min(8, int(cost / workers / 100.0))))
    bounds = [count * i // ranges for i in range(ranges + 1)]
    remaining = iter(list(pairwise(bounds)))

    def drain() -> None:
        for start, stop in remaining:
            work(start, stop)

    others = [_pool_of(workers - 1).submit(drain) for _ in range(workers - 1)]
    try:
        drain()
    finally:
        for other in others:
            # Whoever has not begun by now would find nothing left to do.
            if not other.cancel():
                other.result()

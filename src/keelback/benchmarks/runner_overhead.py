"""What the runner and its store cost a run, and whether their memory grows with the runs."""

import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from keelback.sweeps import Run, RunResult, Store, sweep
from keelback.sweeps.run import Progress

_KIBIBYTE = 1024


class EmptyRun(Run):
    """A run that does nothing and tells how much memory its process has taken so far."""

    kind: ClassVar[str] = "empty"

    number: int

    @classmethod
    def execute(
        cls, runs: Sequence["EmptyRun"], progress: Progress
    ) -> Iterator[tuple["EmptyRun", RunResult]]:
        """Give an empty history of one epoch."""
        for run in runs:
            yield run, RunResult({"peak_bytes": _peak_bytes()}, [{"epoch": 0, "loss": 1.0}])


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE


def runner_overhead(runs: int = 10_000, workers: int | None = None) -> dict[str, Any]:
    """Execute empty runs, each a batch of its own, into a store.

    Returns:
        `ms_per_run`, the whole time over the number of runs, the start of the workers included;
        `ms_per_run_resumed`, the same for the same command on the finished store; by how many bytes
        the peak memory of a worker grew from its first tenth of the runs to the last, and that of
        the runner for each run, its result included.
    """
    with tempfile.TemporaryDirectory(prefix="keelback-bench-") as folder:
        store = Store.create(Path(folder) / "sweep")
        empty = [EmptyRun(number=number) for number in range(runs)]
        before = _peak_bytes()
        started = time.perf_counter()
        results = sweep(empty, store, workers=workers)
        seconds = time.perf_counter() - started
        grown = _peak_bytes() - before
        started = time.perf_counter()
        sweep(empty, store, workers=workers)
        resumed = time.perf_counter() - started
    peaks = [int(str(result.summary["peak_bytes"])) for result in results]
    tenth = max(1, runs // 10)
    return {
        "runs": runs,
        "ms_per_run": 1e3 * seconds / runs,
        "ms_per_run_resumed": 1e3 * resumed / runs,
        "worker_growth_bytes": max(peaks) - max(peaks[:tenth]),
        "runner_growth_bytes_per_run": grown / runs,
    }

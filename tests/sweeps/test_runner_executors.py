"""Executors and the driver over them: cores, memory, chunks, orphans, faults of the store."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probe_run import ProbeRun
from trivial_run import TrivialRun

from keelback.errors import InputError, JobError
from keelback.sweeps import Run, Store, local, sweep
from keelback.sweeps.executor import ThisProcess
from keelback.sweeps.local import LocalExecutor, available_memory, share_cores
from keelback.sweeps.worker import BatchEnd, Job


class Recording(ThisProcess):
    """Executes in this process, several jobs at a time as far as the runner knows."""

    def __init__(self, workers: int = 1) -> None:
        super().__init__()
        self.workers = workers
        self.jobs: list[Job] = []

    def start(self, jobs: int, report: Callable[[int, float], None]) -> int:
        super().start(jobs, report)
        return self.workers

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        super().submit(job)


@given(st.integers(1, 300), st.integers(1, 300))
def test_cores_are_shared_evenly_and_none_twice(cores: int, workers: int) -> None:
    shares = share_cores(range(cores), workers)
    sizes = [len(share) for share in shares]
    assert len(shares) == workers
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    if workers <= cores:
        assert sorted(core for share in shares for core in share) == list(range(cores))


def test_workers_are_pinned_and_share_the_threads(tmp_path: Path) -> None:
    runs: list[Run] = [ProbeRun(number=n, seconds=0.5) for n in range(2)]
    results = sweep(runs, Store.create(tmp_path), workers=2)
    expected = share_cores(sorted(os.sched_getaffinity(0)), 2)
    seen = {str(result.summary["cores"]) for result in results}
    assert seen <= {",".join(map(str, share)) for share in expected}
    assert {result.summary["threads"] for result in results} <= {len(s) for s in expected}
    assert len(seen) == len({result.summary["process"] for result in results})


def test_what_does_not_fit_into_memory_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of the three fit together; and one alone that fits nowhere is tried all the same."""
    monkeypatch.setattr(local, "available_memory", lambda: (100 + 2 * 400) * 2**20 / 0.9)
    needs = (60, 60, 30, 5000)
    runs: list[Run] = [
        ProbeRun(number=n, seconds=0.3, bytes_needed=need * 2**20) for n, need in enumerate(needs)
    ]
    results = sweep(runs, Store.create(tmp_path), workers=3)
    spans = sorted(
        (float(r.summary["started"] or 0), float(r.summary["ended"] or 0), need)
        for r, need in zip(results, needs, strict=True)
    )
    for (_, ended, need), (started, _, other) in pairwise(spans):
        assert need + other <= 100 or ended <= started


def test_the_free_memory_is_read() -> None:
    assert 2**20 < available_memory() < 2**60


def test_cheap_batches_go_in_chunks_and_dear_ones_alone(tmp_path: Path) -> None:
    executor = Recording(workers=2)
    runs: list[Run] = [ProbeRun(number=n, weight=1000.0) for n in range(2)]
    runs += [ProbeRun(number=n) for n in range(2, 400)]
    sweep(runs, Store.create(tmp_path), executor=executor)
    sizes = [len(job.batches) for job in executor.jobs]
    assert sizes[:2] == [1, 1]
    assert sum(sizes) == 400
    assert max(sizes) > 10
    assert len(sizes) > 20, "the last jobs are small, so that all workers end together"


def test_few_batches_are_not_put_together(tmp_path: Path) -> None:
    executor = Recording(workers=2)
    sweep([ProbeRun(number=n) for n in range(16)], Store.create(tmp_path), executor=executor)
    assert [len(job.batches) for job in executor.jobs] == [1] * 16


def test_this_process_needs_no_other(tmp_path: Path) -> None:
    seen: list[float] = []
    runs: list[Run] = [TrivialRun(number=n, batch="a", seconds=0.15) for n in range(3)]
    results = sweep(
        runs,
        Store.create(tmp_path),
        executor=ThisProcess(),
        on_progress=lambda done, whole: seen.append(done / whole),
    )
    assert [result.summary["double"] for result in results] == [0, 2, 4]
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert 0 < seen[0] < 1, "progress within a batch"


def test_no_workers_are_refused() -> None:
    with pytest.raises(InputError, match="1 or more"):
        LocalExecutor(0)


def test_a_busy_batch_waits_and_the_others_go_on(tmp_path: Path) -> None:
    """The other sweep is a fake: the executor says once that a batch is busy."""

    class Busy(Recording):
        def wait(self, seconds: float) -> list[list[BatchEnd]]:
            if len(self.jobs) == 1:
                self._waiting.clear()
                return [[BatchEnd(index, "busy") for index in self.jobs[0].batches]]
            return super().wait(seconds)

    executor = Busy()
    results = sweep(
        [TrivialRun(number=n) for n in range(3)], Store.create(tmp_path), executor=executor
    )
    assert len(results) == 3
    order = [index for job in executor.jobs for index in job.batches]
    assert order == [0, 1, 2, 0]


def test_damage_in_the_store_is_told_before_any_work(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    runs: list[Run] = [TrivialRun(number=n) for n in range(3)]
    sweep(runs[:1], store, executor=ThisProcess())
    (tmp_path / "runs" / runs[0].name / "history.parquet").write_bytes(b"PAR1")
    executor = Recording()
    with pytest.raises(InputError, match=r"4 bytes long, not \d+: a half-copied store\? delete"):
        sweep(runs, store, executor=executor)
    assert executor.jobs == []


def test_what_a_killed_writer_left_is_removed_unless_it_still_writes(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    runs: list[Run] = [TrivialRun(number=n) for n in range(2)]
    others = tmp_path / "runs" / ".0123456789abcdef.xyz"
    for run in runs:
        (tmp_path / "runs" / f".{run.name}.abc").mkdir()
    others.mkdir()
    sweep(runs, store, executor=ThisProcess())
    assert sorted(path.name for path in (tmp_path / "runs").glob(".*")) == [others.name]


def test_a_vanished_store_ends_the_sweep_in_one_line(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    runs: list[Run] = [TrivialRun(number=n) for n in range(4)]

    def vanish(done: float, whole: float) -> None:
        shutil.rmtree(tmp_path / "s", ignore_errors=True)

    with pytest.raises(JobError, match=r"cannot write to .*vanished") as caught:
        sweep(runs, store, executor=ThisProcess(), on_progress=vanish)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists(), "nothing is made again where a drive was lost"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where this user may mount one."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(mounted)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield mounted
    subprocess.run(["umount", str(mounted)], check=True)


def test_a_full_disk_ends_the_sweep_and_leaves_whole_runs(small_disk: Path) -> None:
    store = Store.create(small_disk / "s")
    runs: list[Run] = [TrivialRun(number=n) for n in range(200)]
    with pytest.raises(JobError, match="No space left on device; what was finished is kept"):
        sweep(runs, store, executor=ThisProcess())
    kept = list(store)
    assert 0 < len(kept) < 200
    assert len(list((small_disk / "s" / "runs").iterdir())) == len(kept)
    for run in kept[: len(kept) // 2]:
        store.delete(run.name)
    with pytest.raises(JobError, match="No space left"):
        sweep(runs, store, executor=ThisProcess())
    assert len(list(store)) >= len(kept) // 2


def test_a_store_that_became_read_only_is_one_line(small_disk: Path) -> None:
    store = Store.create(small_disk / "s")
    command = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(JobError, match="Read-only file system"):
        sweep([TrivialRun(number=1)], store, executor=ThisProcess())
    with pytest.raises(InputError, match="not writable"):
        Store.create(small_disk / "s")


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from trivial_run import TrivialRun
from keelback.errors import JobError
from keelback.sweeps import Store, sweep
from keelback.sweeps.executor import ThisProcess
store = Store.create(Path({store!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    sweep([TrivialRun(number=1)], store, executor=ThisProcess())
except JobError as error:
    print(error)
"""


def test_a_file_that_may_not_be_written_whole_is_not_kept(tmp_path: Path) -> None:
    script = LIMITED.format(tests=str(Path(__file__).parent), store=str(tmp_path / "s"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "File too large; what was finished is kept" in done.stdout
    assert list((tmp_path / "s" / "runs").iterdir()) == []


ORPHANS = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from probe_run import ProbeRun
from keelback.sweeps import Store, sweep
if __name__ == "__main__":
    runs = [ProbeRun(number=n, seconds=0.1) for n in range(2)]
    runs += [ProbeRun(number=n, seconds=600) for n in range(2, 4)]
    sweep(runs, Store.create(Path({store!r})), workers=2)
"""


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(ORPHANS.format(tests=str(Path(__file__).parent), store=str(tmp_path / "s")))
    process = subprocess.Popen([sys.executable, str(script)])
    store = Store(tmp_path / "s")
    wait_until(lambda: len(store.names()) == 2)
    workers = {int(str(run.summary["process"])) for run in store}
    assert all(is_running(worker) for worker in workers)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(is_running(worker) for worker in workers))


def wait_until(condition: Callable[[], bool], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_ten_thousand_results_take_little_memory(tmp_path: Path) -> None:
    """A thousand stand for them: what the runner keeps of a run is a few kilobytes."""
    runs: list[Run] = [TrivialRun(number=n) for n in range(1000)]
    store = Store.create(tmp_path)
    sweep(runs[:10], store, executor=ThisProcess())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sweep(runs, store, executor=ThisProcess())
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < 20e6


def test_a_worker_that_does_not_answer_cannot_keep_a_sweep_from_its_end(tmp_path: Path) -> None:
    """Nor one that waits for a lock which a killed worker held."""
    executor = LocalExecutor(2)
    executor.start(2, lambda index, share: None)
    run = TrivialRun(number=1)
    executor.submit(Job({0: [run]}, Store.create(tmp_path).directory, 0))
    while not executor.wait(1.0):
        pass
    assert executor._pool is not None
    for process in (executor._pool._processes or {}).values():
        os.kill(process.pid, signal.SIGSTOP)
    ended = threading.Thread(target=executor.stop, daemon=True)
    ended.start()
    ended.join(60.0)
    assert not ended.is_alive()

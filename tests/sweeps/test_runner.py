"""The runner: nothing lost, nothing run twice, failures told apart."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trivial_run import TrivialRun

from keelback.errors import JobError
from keelback.sweeps import Store, sweep


def executions(log: Path) -> list[int]:
    return sorted(int(line) for line in log.read_text().split()) if log.exists() else []


def test_results_come_in_the_order_of_the_runs(tmp_path: Path) -> None:
    runs = [TrivialRun(number=n, batch=str(n % 3)) for n in (5, 1, 4, 2, 3)]
    results = sweep(runs, Store.create(tmp_path), workers=2)
    assert [result.summary["double"] for result in results] == [10, 2, 8, 4, 6]


def test_finished_runs_are_not_run_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    store = Store.create(tmp_path / "s")
    runs = [TrivialRun(number=n, log=str(log)) for n in range(4)]
    sweep(runs[:2], store, workers=1)
    sweep(runs, store, workers=1)
    assert executions(log) == [0, 1, 2, 3]


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []
    runs = [TrivialRun(number=n) for n in range(3)]
    sweep(runs, Store.create(tmp_path), workers=1, on_progress=lambda *x: seen.append(x))
    assert seen[-1] == (3.0, 3.0)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    ("fault", "message"),
    [("error", "ZeroDivisionError: this run is broken"), ("input", "input is wrong")],
)
def test_a_failed_batch_is_named_and_the_others_are_kept(
    tmp_path: Path, fault: str, message: str
) -> None:
    store = Store.create(tmp_path)
    runs = [TrivialRun(number=0, fault=fault), TrivialRun(number=1), TrivialRun(number=2)]
    with pytest.raises(JobError, match=message):
        sweep(runs, store, workers=1)
    assert [run in store for run in runs] == [False, True, True]


def test_a_killed_worker_ends_the_sweep_with_what_was_finished(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    runs = [
        TrivialRun(number=1, batch="a"),
        TrivialRun(number=2, batch="a", fault="kill"),
    ]
    with pytest.raises(JobError, match="worker process was killed"):
        sweep(runs, store, workers=1)
    assert [run in store for run in runs] == [True, False]


SWEEP = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's & ignores it.
sys.path.insert(0, {tests!r})
from trivial_run import TrivialRun
from keelback.sweeps import Store, sweep
if __name__ == "__main__":
    runs = [TrivialRun(number=n, log={log!r}, seconds=0.15, batch=str(n // 2)) for n in range(12)]
    print("ready", flush=True)
    results = sweep(runs, Store.create(Path({store!r})), workers=2)
    print([result.summary["double"] for result in results])
"""


def start_sweep(tmp_path: Path, store: str = "s", log: str = "log") -> subprocess.Popen[str]:
    script = tmp_path / "sweep.py"
    script.write_text(
        SWEEP.format(
            tests=str(Path(__file__).parent),
            log=str(tmp_path / log),
            store=str(tmp_path / store),
        )
    )
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_kill_at_any_moment_then_the_same_command(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "s"
    for finished in (1, 4, 8):
        process = start_sweep(tmp_path)
        deadline = time.monotonic() + 300
        while len(list(store.glob("runs/[0-9a-f]*"))) < finished and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    kept = {path.name for path in store.glob("runs/[0-9a-f]*")}
    assert len(kept) >= 8
    output, _ = start_sweep(tmp_path).communicate(timeout=300)
    assert output.splitlines()[-1] == str([2 * n for n in range(12)])
    counts = [executions(log).count(n) for n in range(12)]
    assert all(count >= 1 for count in counts)
    # Two workers: at most two runs were under way at each of the three kills.
    assert sum(counts) - 12 <= 6


@pytest.mark.slow
def test_an_interrupt_ends_the_sweep_and_keeps_what_was_finished(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole process group of a terminal."""
    process = start_sweep(tmp_path)
    store = tmp_path / "s"
    deadline = time.monotonic() + 300
    while len(list(store.glob("runs/[0-9a-f]*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
    assert 2 <= len(list(Store.open(store))) < 12
    while group_exists(process.pid) and time.monotonic() < deadline + 300:
        time.sleep(0.05)
    assert not group_exists(process.pid), "no worker outlives the sweep"


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_two_sweeps_on_one_store_share_the_work(tmp_path: Path) -> None:
    Store.create(tmp_path / "s")
    both = [start_sweep(tmp_path), start_sweep(tmp_path)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert {output.splitlines()[-1] for output in outputs} == {str([2 * n for n in range(12)])}
    assert executions(tmp_path / "log") == list(range(12))

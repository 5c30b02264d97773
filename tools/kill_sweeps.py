"""Kill sweeps at random moments, over and over, and hold what is left to a sweep that lived.

    python tools/kill_sweeps.py --kills 100 --out results/benchmarks/kill_sweeps.json

A sweep of small trainings runs in a process group of its own with two workers. At a random moment
the whole group (`all`), one worker (`worker`) or the parent alone (`parent`) gets SIGKILL, and the
same command starts again; where a sweep ends before its kill comes, its store is checked and a new
one is begun. Most kills come while the workers work, some while they start. After each kill every
run that was seen in the store before must be there, readable, with the bytes it had; the table of
each finished store must be that of a sweep that was never killed.

`executions_repeated` counts trainings that ended but were killed before they were stored: those of
one batch end together and are stored one after the other.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import result_file
from keelback.sweeps import Store

LENGTHS, SEEDS, EPOCHS = (4, 6, 8, 10), 3, 40

SWEEP = """
import sys
from pathlib import Path
from keelback.sweeps import Store, TrainingRun, sweep
from keelback.experiments._shared.presets import LENGTH_INDEPENDENCE, preset, selective_ssm_run

store, lengths, seeds, epochs = Path(sys.argv[1]), *map(eval, sys.argv[2:])


class Logged(TrainingRun):
    kind = "logged-training"

    @classmethod
    def execute(cls, runs, progress):
        for run, result in super().execute(runs, progress):
            with (store / "executions").open("a") as file:
                file.write(run.name + "\\n")
            yield run, result


if __name__ == "__main__":
    majority = preset(LENGTH_INDEPENDENCE, "majority")
    runs = [
        selective_ssm_run("majority", majority, seq_len=seq_len, seed=seed, epochs=epochs)
        for seq_len in lengths for seed in range(1, seeds + 1)
    ]
    runs = [Logged(**run.model_dump()) for run in runs]
    sweep(runs, Store.create(store), workers=2)
"""


def start(script: Path, store: Path) -> subprocess.Popen[bytes]:
    arguments = [str(store), repr(LENGTHS), repr(SEEDS), repr(EPOCHS)]
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )


def table_of(store: Store) -> dict[str, Any]:
    """What a sweep is about: each run's result and every epoch's row."""
    return {run.name: [dict(run.summary), run.history()] for run in store}


def workers_of(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children")
    try:
        found = [int(child) for child in children.read_text().split()]
        return [child for child in found if b"spawn_main" in _command(child)]
    except OSError:
        return []


def _command(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


def end(process: subprocess.Popen[bytes], how: str) -> None:
    if how == "all":
        os.killpg(process.pid, signal.SIGKILL)
    elif how == "parent" or not (workers := workers_of(process.pid)):
        process.kill()
    else:
        os.kill(random.choice(workers), signal.SIGKILL)
    process.wait()
    wait_for_group(process.pid)


def wait_for_group(group: int) -> None:
    """Workers whose parent was killed end by themselves; wait for that, as `ps` would show it."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise SystemExit(f"processes of group {group} outlive the sweep's end")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=100, help="how many")
    options.add_argument("--seed", type=int, default=1, help="of the moments")
    result_file.add_options(options)
    return options


def main() -> None:
    given = parser().parse_args()
    record = result_file.started(given)
    random.seed(given.seed)
    with tempfile.TemporaryDirectory(prefix="keelback-kills-") as folder:
        result = campaign(Path(folder), given.kills)
    result_file.write(given, record, result)
    bad = [name for name in FAULTS if result[name] and name != "executions_repeated"]
    if bad:
        sys.exit("found: " + ", ".join(bad))


def campaign(folder: Path, kills: int) -> dict[str, Any]:
    script = folder / "sweep.py"
    script.write_text(SWEEP)
    whole = start(script, folder / "whole")
    pace = Pace()
    if let_end(whole, folder / "whole", pace) != 0:
        raise SystemExit("the sweep fails even where nothing is killed")
    expected = table_of(Store.open(folder / "whole"))
    ways: Counter[str] = Counter()
    faults: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
    stores = kept = 0
    seen: dict[str, bytes] = {}
    while ways.total() < kills or seen:
        store = folder / str(stores)
        process = start(script, store)
        fresh = None if seen else pace
        if ways.total() >= kills:
            how, code = None, let_end(process, store, fresh)
        else:
            how, code = kill_at_some_moment(process, store, pace, fresh)
        if how is not None:
            ways[how] += 1
            kept += len(seen)
            print(f"{ways.total()} kills, {stores} finished sweeps", file=sys.stderr)
        elif code != 0:
            faults["sweeps_that_failed"] += 1
            break
        note_changes(store, seen, faults)
        if how is None:
            note_table(store, expected, faults)
            stores, seen = stores + 1, {}
    killed = {"all processes": "all", "one worker": "worker", "the runner alone": "parent"}
    return {
        "rows": [
            *({"what": f"kills of {name}", "times": ways[how]} for name, how in killed.items()),
            {"what": "sweeps that reached their end", "times": stores},
            {"what": "finished runs that a kill found in the store", "times": kept},
            *({"what": name.replace("_", " "), "times": faults[name]} for name in FAULTS),
        ],
        "kills": dict(ways),
        "kills_while_working": ways.total() - ways_while_starting.total(),
        "stores_finished": stores,
        "runs_a_store": len(expected),
        "finished_runs_that_met_a_kill": kept,
        **faults,
    }


FAULTS = (
    "runs_lost",
    "runs_changed",
    "tables_that_differ",
    "half_written_runs_left",
    "executions_repeated",
    "sweeps_that_failed",
)
ways_while_starting: Counter[str] = Counter()


@dataclass
class Pace:
    """Seconds that the last sweep that nobody killed took to start, and to work."""

    starting: float = 0.0
    working: float = 0.0


def wait_for_work(process: subprocess.Popen[bytes], store: Path) -> None:
    while process.poll() is None and not (store / "lock").exists():
        time.sleep(0.01)


def let_end(process: subprocess.Popen[bytes], store: Path, fresh: Pace | None) -> int:
    """Wait for the sweep's end and give its exit code; of one on a new store, note the pace."""
    started = time.monotonic()
    wait_for_work(process, store)
    began = time.monotonic()
    code = process.wait()
    if fresh is not None:
        fresh.starting, fresh.working = began - started, time.monotonic() - began
    return code


def kill_at_some_moment(
    process: subprocess.Popen[bytes], store: Path, pace: Pace, fresh: Pace | None
) -> tuple[str | None, int]:
    """Kill the sweep and say how; None and its exit code where it ended before."""
    (store / "lock").unlink(missing_ok=True)
    early = random.random() < 0.2
    started = time.monotonic()
    try:
        if early:
            process.wait(random.uniform(0, pace.starting))
            return None, process.returncode
        wait_for_work(process, store)
        began = time.monotonic()
        process.wait(random.uniform(0, pace.working))
        if fresh is not None:
            fresh.starting, fresh.working = began - started, time.monotonic() - began
        return None, process.returncode
    except subprocess.TimeoutExpired:
        how = random.choice(["all", "worker", "parent"])
        ways_while_starting[how] += early
        end(process, how)
        return how, process.returncode


def note_changes(store: Path, seen: dict[str, bytes], faults: Counter[str]) -> None:
    """Hold the runs in the store to what was seen of them before, and add the new ones."""
    if (store / "manifest.json").exists():
        for run in Store.open(store):
            run.history()
            seen.setdefault(run.name, (run.folder / "run.json").read_bytes())
    for name, record in seen.items():
        path = store / "runs" / name / "run.json"
        if not path.exists():
            faults["runs_lost"] += 1
        elif path.read_bytes() != record:
            faults["runs_changed"] += 1


def note_table(store: Path, expected: dict[str, Any], faults: Counter[str]) -> None:
    """Hold a finished store to the sweep that lived."""
    faults["tables_that_differ"] += table_of(Store.open(store)) != expected
    faults["half_written_runs_left"] += len(list((store / "runs").glob(".*")))
    counts = Counter((store / "executions").read_text().split())
    faults["executions_repeated"] += sum(count - 1 for count in counts.values())


if __name__ == "__main__":
    main()

"""Time the whole Majority length-independence sweep on this machine's GPU, or on its CPU.

    python tools/sweep_on_device.py --workers 8 --out results/benchmarks/sweep_h100.json

The seconds are those of the sweep as a user runs it: the start of the workers, data, training,
scoring and storing. The rows are mean accuracies, to compare with the committed results.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import result_file
from keelback.experiments import get_experiment
from keelback.sweeps import Store, sweep


def timed_sweep(workers: int) -> dict[str, Any]:
    """Run the sweep in a fresh store; its seconds, survivors and mean accuracies."""
    experiment = get_experiment("length-independence")
    runs = experiment.runs(experiment.settings({"task": "majority", "seeds": 5}))
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "sweep")
        started = time.perf_counter()
        done = sweep(runs, store, workers=workers)
        seconds = time.perf_counter() - started
        survivors = [run for run in done if not run.summary["diverged"]]
        by_length: dict[int, list[Mapping[str, Any]]] = {}
        for run in survivors:
            by_length.setdefault(run.fields["task_settings"]["seq_len"], []).append(run.summary)
    return {
        "summary": [
            {
                "workers": workers,
                "seconds": seconds,
                "runs": len(done),
                "survivors": len(survivors),
            }
        ],
        "rows": [
            {
                "seq_len": length,
                "survivors": len(found),
                "train": statistics.mean(one["train_accuracy"] for one in found),
                "test": statistics.mean(one["test_accuracy"] for one in found),
            }
            for length, found in sorted(by_length.items())
        ],
    }


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--workers", type=int, default=8, help="processes on the device")
    result_file.add_options(options)
    return options


def main() -> None:
    given = parser().parse_args()
    record = result_file.started(given)
    result_file.write(given, record, timed_sweep(given.workers))


if __name__ == "__main__":
    main()

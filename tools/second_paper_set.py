"""Run all experiments on the gated SSM at full size, several at once on one GPU, and time them.

    python tools/second_paper_set.py STORES --at-once 4 --cpu-workers 12 --no-report \\
        --out results/benchmarks/second_paper_set_h100.json

Each is a `keelback reproduce` command with its own store in STORES, which goes on from what is
there. `gate-alignment` trains small models by autograd and is faster on the CPU's cores, and
`locality-laws` descends on exact means there, so these get the cores and the GPU is hidden from
them. Several commands at once fill a GPU that one would leave idle
between kernels. The longest start first; the result is written anew after each. `--no-report`
draws nothing: `keelback report` does it later, here or elsewhere.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import result_file
from keelback.sweeps import available_cores

ON_GPU = {
    "locality-paper": "locality",
    "locality-theorem": "locality --set setting=theorem",
    "sample-complexity-majority-theorem": "sample-complexity --data majority --set setting=theorem",
    "sample-complexity-locality-paper": "sample-complexity --data locality",
    "sample-complexity-majority-paper": "sample-complexity --data majority",
    "sample-complexity-locality-theorem": "sample-complexity --data locality --set setting=theorem",
    "majority-voting-theorem": "majority-voting --set setting=theorem",
    "majority-voting-paper": "majority-voting",
}
ON_CPU = {"gate-alignment": "gate-alignment", "locality-laws-full": "locality-laws"}


@dataclass
class Job:
    """A running command and where it writes."""

    name: str
    command: str
    process: subprocess.Popen[bytes]
    started: float


def start(name: str, arguments: str, stores: Path, on_cpu: bool) -> Job:
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {})
    command = [sys.executable, "-m", "keelback", "reproduce", *shlex.split(arguments)]
    with (stores / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--out", str(stores / name)], stdout=log, stderr=log, env=environment
        )
    shown = f"{'CUDA_VISIBLE_DEVICES= ' if on_cpu else ''}keelback reproduce {arguments}"
    return Job(name, shown, process, time.monotonic())


def row(job: Job, stores: Path, began: float) -> dict[str, object]:
    ended = time.monotonic()
    return {
        "command": job.command,
        "started": round(job.started - began, 1),
        "ended": round(ended - began, 1),
        "seconds": round(ended - job.started, 1),
        "runs": len(list((stores / job.name / "runs").glob("[0-9a-f]*"))),
        "exit": job.process.returncode,
    }


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("stores", type=Path, help="folder with one store for each experiment")
    options.add_argument("--at-once", type=int, default=4, help="commands on the GPU at a time")
    options.add_argument("--cpu-workers", type=int, default=11, help="workers of each on the CPU")
    options.add_argument("--no-report", action="store_true", help="draw nothing")
    options.add_argument("--quick", action="store_true", help="smaller versions of all")
    result_file.add_options(options)
    return options


def main() -> int:
    given = parser().parse_args()
    if given.out is None:
        sys.exit("error: --out is missing: the file of the result, written anew after each command")
    record = result_file.started(given)
    given.stores.mkdir(parents=True, exist_ok=True)
    options = " --quick" * given.quick + " --no-report" * given.no_report
    waiting = list(ON_GPU.items())
    began = time.monotonic()
    on_cpu = [
        start(name, f"{arguments} --workers {given.cpu_workers}{options}", given.stores, True)
        for name, arguments in ON_CPU.items()
    ]
    on_gpu: list[Job] = []
    rows: list[dict[str, object]] = []
    while waiting or on_gpu or on_cpu:
        while waiting and len(on_gpu) < given.at_once:
            name, arguments = waiting.pop(0)
            on_gpu.append(start(name, arguments + options, given.stores, False))
        time.sleep(0.2)
        for jobs in (on_gpu, on_cpu):
            for job in [job for job in jobs if job.process.poll() is not None]:
                jobs.remove(job)
                rows.append(row(job, given.stores, began))
                print(rows[-1], file=sys.stderr, flush=True)
                found = {
                    "cores": available_cores(),
                    "at_once": given.at_once,
                    "seconds": rows[-1]["ended"],
                    "unfinished": [job.name for job in on_gpu + on_cpu]
                    + [name for name, _ in waiting],
                    "rows": rows,
                }
                result_file.write(given, record, found)
    return int(any(found["exit"] for found in rows))


if __name__ == "__main__":
    sys.exit(main())

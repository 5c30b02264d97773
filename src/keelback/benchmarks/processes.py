"""Running a benchmark on several processes of this machine, one GPU each."""

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessException, spawn

from keelback.device import chosen_device
from keelback.errors import InputError, JobError
from keelback.training import AcceleratePlace, Place

Job = Callable[..., Iterator[Any]]
"""Called in every process with its place and the arguments; the first one's JSON values count."""

_SECONDS_BETWEEN_LOOKS = 0.2


def require_processes(processes: int, device: str) -> None:
    """Raise unless as many processes can have a device of the kind each.

    Raises:
        InputError: There are fewer GPUs, or accelerate is not installed.
    """
    chosen_device(device)
    if processes < 2:
        raise InputError(f"processes is {processes}; it should be at least 2")
    if device == "cuda" and torch.cuda.device_count() < processes:
        raise InputError(
            f"processes is {processes}; it should be at most {torch.cuda.device_count()}, "
            "the number of GPUs here"
        )
    if find_spec("accelerate") is None:
        raise InputError("several processes need accelerate: pip install 'keelback[hf]'")


def on_processes(job: Job, processes: int, device: str, *arguments: Any) -> Iterator[Any]:
    """What `job` yields in the first of several processes, each as soon as it is there.

    The processes are ended where the caller wants no more of it.

    Raises:
        JobError: A process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "values"
        out.touch()
        given = (job, processes, device, _free_port(), out, arguments)
        context: Any = spawn(_run, given, nprocs=processes, join=False)
        failure: Exception | None = None
        ended, rest = False, ""
        try:
            with out.open(encoding="utf-8") as file:
                while not ended:
                    try:
                        ended = context.join(timeout=_SECONDS_BETWEEN_LOOKS)
                    except ProcessException as error:
                        failure, ended = error, True
                    *lines, rest = (rest + file.read()).split("\n")
                    yield from map(json.loads, lines)
        finally:
            for process in context.processes:
                process.terminate()
                process.join()
        if failure is not None:
            last_line = str(failure).strip().splitlines()[-1]
            raise JobError(f"one of {processes} processes failed: {last_line}") from failure


def alone(place: Place, call: Callable[[], Any]) -> Any:
    """What a call returns in the first process, while the others wait; None in those."""
    result = call() if place.is_main else None
    place.wait_for_all()
    return result


def _run(
    rank: int,
    job: Job,
    processes: int,
    device: str,
    port: int,
    out: Path,
    arguments: tuple[Any, ...],
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    with AcceleratePlace(cpu=device == "cpu") as place, out.open("a", encoding="utf-8") as file:
        for value in job(place, *arguments):
            if place.is_main:
                file.write(json.dumps(value) + "\n")
                file.flush()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

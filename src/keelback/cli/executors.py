"""The options that say where a sweep is executed."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from keelback.sweeps.executor import Executor

ExecutorName = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Where to execute: on this machine, or on a Ray cluster."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of processes of the local executor; one per core by default; e.g. 4.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address of a Ray cluster, HOST:PORT or auto; by default a cluster is started here; "
        "e.g. 10.0.0.1:6379."
    ),
]
CpusPerJob = Annotated[
    float | None,
    typer.Option(
        "--cpus-per-job",
        "--cpus-per-task",
        min=0,
        help="Number of CPU cores of a job on Ray; 1 by default; e.g. 2.",
    ),
]
GpusPerJob = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-job",
        "--gpus-per-task",
        min=0,
        help="Number of GPUs of a job on Ray, 0.1 to let ten jobs share one; 0 by default; e.g. "
        "0.5.",
    ),
]


def make_executor(
    name: str,
    workers: int | None = None,
    address: str | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
) -> "Executor":
    """The executor that the options name, once it is known that it can be had.

    Raises:
        InputError: the options contradict each other, or what they ask for is not there.
    """
    from keelback.errors import InputError
    from keelback.sweeps.local import LocalExecutor
    from keelback.sweeps.ray_cluster import RayExecutor

    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}; it must be 1 or more")
    if name == "ray":
        if workers is not None:
            raise InputError("--workers is for the local executor; Ray uses what the cluster has")
        executor = RayExecutor(
            address, cpus=1.0 if cpus is None else cpus, gpus=0.0 if gpus is None else gpus
        )
        executor.check()
        return executor
    given = {"--address": address, "--cpus-per-job": cpus, "--gpus-per-job": gpus}
    for option, value in given.items():
        if value is not None:
            raise InputError(f"{option} is for the Ray executor; add --executor ray")
    return LocalExecutor(workers)

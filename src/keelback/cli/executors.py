"""The options that say where a sweep is executed."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from keelback.sweeps.executor import Executor

ExecutorName = Annotated[
    Literal["local", "ray"], typer.Option(help="Where to execute: this machine, or a Ray cluster.")
]
Workers = Annotated[
    int | None, typer.Option(help="Processes of the local executor; one a core by default.")
]
Address = Annotated[
    str | None,
    typer.Option(help="Of a Ray cluster: HOST:PORT, or auto; without one, one is started here."),
]
CpusPerJob = Annotated[
    float | None,
    typer.Option("--cpus-per-job", "--cpus-per-task", help="Cores of a job on Ray; 1 by default."),
]
GpusPerJob = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-job",
        "--gpus-per-task",
        help="GPUs of a job on Ray; 0.1 lets ten share one.",
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

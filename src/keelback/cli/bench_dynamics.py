"""`keelback bench dynamics`: batched trainings of the gated SSM against one after the other."""

from typing import Annotated

import typer

from keelback.cli.app import print_measured
from keelback.cli.bench import bench
from keelback.cli.options import Device, Json, Repeats
from keelback.cli.progress import work_progress
from keelback.device import chosen_device
from keelback.memory import require_tensors

_NUMBERS_OF_REPLICA = 400.0 * 30 * 32
"""Of the training sequences of one model, with noise: N, L and d."""


@bench.command()
def dynamics(
    device: Device = "cpu",
    replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of models trained as one batch; by default 16 on a CPU and 2000 on a "
            "GPU; e.g. 16.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Number of epochs of a training.")] = 400,
    repeats: Repeats = 3,
    json: Json = False,
) -> None:
    """Train gated SSMs as one batch and, as one would in PyTorch, one after the other.

    The setting is the paper's majority voting: d = 32, m = 50, L = 30, N = 400, full-batch descent.
    """
    from keelback.benchmarks.dynamics import time_dynamics

    chosen_device(device)
    count = replicas if replicas is not None else 2000 if device == "cuda" else 16
    require_tensors(device, count * _NUMBERS_OF_REPLICA, f"{count} models and their sequences")
    with work_progress("bench dynamics"):
        result = time_dynamics(device, replicas=count, epochs=epochs, repeats=repeats).as_dict()
    if json:
        print_measured(result)
        return
    print(f"{count} trainings of {epochs} epochs on {device}")
    for row in result["rows"]:
        print(
            f"  {row['way']:28} {row['trainings a second']:10.3f} a second, "
            f"{row['times slower than the batch']:.1f} times slower than the batch"
        )

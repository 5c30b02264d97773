"""`keelback bench dynamics`: batched trainings of the gated SSM against one after the other."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import Device, Json, OutFile, Repeats
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
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Train gated SSMs as one batch and, as one would in PyTorch, one after the other.

    The setting is the paper's majority voting: d = 32, m = 50, L = 30, N = 400, full-batch descent.
    """
    from keelback.benchmarks.dynamics import benchmark

    chosen_device(device)
    count = replicas if replicas is not None else 2000 if device == "cuda" else 16
    require_tensors(device, count * _NUMBERS_OF_REPLICA, f"{count} models and their sequences")
    chosen = benchmark(device, replicas=count, epochs=epochs, repeats=repeats)
    run_benchmark("bench dynamics", chosen, out, as_json=json, show=_show)


def _show(result: Mapping[str, Any]) -> None:
    print(f"{result['replicas']} trainings of {result['epochs']} epochs on {result['device']}")
    for row in result["rows"]:
        print(
            f"  {row['way']:28} {row['trainings a second']:10.3f} a second, "
            f"{row['times slower than the batch']:.1f} times slower than the batch"
        )

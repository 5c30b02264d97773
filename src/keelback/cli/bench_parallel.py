"""`keelback bench parallel`: several processes, one GPU each, against one."""

from typing import Annotated, Any

import typer

from keelback.cli.app import Json, print_measured
from keelback.cli.bench import bench
from keelback.errors import InputError

PARTS = ("training", "scan")
#: What A of the long sequence is multiplied with: as Mamba starts, and for a memory as long as it.
RATES = (1.0, 0.01)


@bench.command()
def parallel(
    processes: Annotated[int, typer.Option(help="Processes, one GPU each.", min=1)] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    only: Annotated[
        str | None, typer.Option(help="training (data-parallel) or scan (one long sequence).")
    ] = None,
    d_model: Annotated[int, typer.Option(help="Width of the model to train.", min=1)] = 768,
    layers: Annotated[int, typer.Option(help="Its Mamba blocks.", min=1)] = 12,
    seq_len: Annotated[int, typer.Option(help="Length of its examples.", min=1)] = 1024,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Examples a step and process; may be given several times.", min=1),
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(help="Length of the long sequence; may be given several times.", min=2),
    ] = None,
    channels: Annotated[int, typer.Option(help="Channels of the long sequence.", min=1)] = 1536,
    state: Annotated[int, typer.Option(help="States of a channel.", min=1)] = 16,
    repeats: Annotated[int, typer.Option(help="Timed scans; the median counts.", min=1)] = 5,
    json: Json = False,
) -> None:
    """Compare training and one long scan on several processes with the same on one."""
    from keelback.benchmarks.parallel import Sizes, compare_parallel
    from keelback.benchmarks.parallel_scan import LongScan
    from keelback.benchmarks.parallel_training import TrainingSize

    if only not in (None, *PARTS):
        raise InputError(f"--only is {only!r}; it should be one of {', '.join(PARTS)}")
    lengths = length or [262_144, 1_000_000]
    for steps in lengths:
        if steps % processes:
            raise InputError(f"length {steps} should be a multiple of the {processes} processes")
    scans = [LongScan(n, channels, state, rate) for n in lengths for rate in RATES]
    sizes = Sizes(
        large=TrainingSize(d_model, layers, seq_len, batch=1, precision="bfloat16"),
        batches=(batch or [16]) if only != "scan" else [],
        scans=scans if only != "training" else [],
        repeats=repeats,
    )
    result: dict[str, Any] = compare_parallel(processes, device, sizes)
    if json:
        print_measured(result)
        return
    for part in ("loss_curves", "scaling", "scans"):
        for row in result.get(part, []):
            print(", ".join(f"{name}: {value}" for name, value in row.items()))

"""`keelback bench ssd`: Mamba-2's scan by heads."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench, print_times
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import Device, DTypeOfDevice, Json, OutFile, Repeats
from keelback.device import chosen_device
from keelback.memory import require_tensors


@bench.command()
def ssd(
    device: Device = "cpu",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape of the inputs, batch,length,heads,head_dim,state,groups; may be repeated; "
            "by default a set of shapes for the device; e.g. 1,2048,24,64,128,1."
        ),
    ] = None,
    dtype: DTypeOfDevice = None,
    repeats: Repeats = 7,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Peer that must be installed: transformers on a CPU, mamba_ssm or fla on a GPU; "
            "may be repeated; by default none is needed; e.g. mamba_ssm."
        ),
    ] = None,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Compare Mamba-2's scan by heads with transformers, mamba-ssm and flash-linear-attention."""
    from keelback.benchmarks.ssd_peers import SsdShape
    from keelback.benchmarks.ssd_speed import DTYPES, SHAPES, benchmark

    chosen_device(device)
    shapes = [SsdShape.parse(text) for text in shape or []] or SHAPES[device]
    for one in shapes:
        require_tensors(device, one.numbers, f"the operands at {one}")
    chosen = benchmark(shapes, device, dtype or DTYPES[device], repeats, peer or [])
    run_benchmark("bench ssd", chosen, out, as_json=json, show=_show)


def _show(result: Mapping[str, Any]) -> None:
    for row in result["rows"]:
        print_times(row, ("batch", "length", "heads", "head_dim", "state", "groups"))

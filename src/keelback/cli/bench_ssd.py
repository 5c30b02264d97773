"""`keelback bench ssd`: Mamba-2's scan by heads."""

from dataclasses import astuple
from typing import Annotated

import typer

from keelback.cli.app import print_measured
from keelback.cli.bench import bench, print_times
from keelback.cli.options import Device, DTypeOfDevice, Json, Repeats
from keelback.cli.progress import work_progress
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
    json: Json = False,
) -> None:
    """Compare Mamba-2's scan by heads with transformers, mamba-ssm and flash-linear-attention."""
    from keelback.benchmarks.ssd_peers import SsdShape
    from keelback.benchmarks.ssd_speed import DTYPES, SHAPES, compare, versions

    chosen_device(device)
    shapes = [SsdShape.parse(text) for text in shape or []] or SHAPES[device]
    for one in shapes:
        require_tensors(device, one.numbers, f"the operands at {','.join(map(str, astuple(one)))}")
    with work_progress("bench ssd"):
        rows = compare(shapes, device, dtype or DTYPES[device], repeats, peer or [])
    if json:
        print_measured({"versions": versions(), "rows": rows})
        return
    for row in rows:
        print_times(row, ("batch", "length", "heads", "head_dim", "state", "groups"))

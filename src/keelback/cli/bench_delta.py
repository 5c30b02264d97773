"""`keelback bench delta`: delta rules."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench, print_times
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import Device, DTypeOfDevice, Json, OutFile, Repeats
from keelback.device import chosen_device
from keelback.memory import require_tensors


@bench.command()
def delta(
    device: Device = "cpu",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape of the inputs, batch,length,heads,key,value,groups; may be repeated; by "
            "default a set of shapes for the device; e.g. 1,1024,8,64,64,8."
        ),
    ] = None,
    decay: Annotated[
        list[str] | None,
        typer.Option(
            help="Decay to time: head (one per head, the gated delta rule) or channel (one per "
            "channel, Kimi delta attention); may be repeated; by default both; e.g. channel."
        ),
    ] = None,
    dtype: DTypeOfDevice = None,
    repeats: Repeats = 7,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Peer that must be installed: transformers, or on a GPU also fla; may be "
            "repeated; by default none is needed; e.g. transformers."
        ),
    ] = None,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Compare delta rules, and one step of them, with transformers and flash-linear-attention."""
    from keelback.benchmarks.delta_peers import DECAYS, DeltaShape
    from keelback.benchmarks.delta_speed import DTYPES, SHAPES, benchmark

    chosen_device(device)
    shapes = [DeltaShape.parse(text) for text in shape or []] or SHAPES[device]
    for one in shapes:
        require_tensors(device, one.numbers, f"the operands at {one}")
    chosen = benchmark(
        shapes, decay or DECAYS, device, dtype or DTYPES[device], repeats, peer or []
    )
    run_benchmark("bench delta", chosen, out, as_json=json, show=_show)


def _show(result: Mapping[str, Any]) -> None:
    for row in result["rows"]:
        print_times(row, ("batch", "length", "heads", "key", "value", "groups", "decay"))

"""`keelback bench call`: what a call costs the host."""

from typing import Annotated

import typer

from keelback.cli.app import Json, print_measured
from keelback.cli.bench import bench
from keelback.device import chosen_device


@bench.command()
def call(
    device: Annotated[str, typer.Option(help="Where to run: cpu or cuda.")] = "cpu",
    operator: Annotated[
        list[str] | None,
        typer.Option(
            help="selective_scan, ssd, causal_conv1d, selective_state_update or "
            "causal_conv1d_update; may be given several times. All by default."
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="batch,length,channels,state of the inputs, which should be small. By default "
            "1,16,16,4 on a CPU and 16,256,96,8 on a GPU."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    repeats: Annotated[int, typer.Option(help="Timed bursts of each; the median counts.")] = 15,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="A peer (mamba_ssm, causal_conv1d) that must be there."),
    ] = None,
    json: Json = False,
) -> None:
    """Time calls on small inputs, in microseconds: without graph, with graph, with backward."""
    from keelback.benchmarks.call_speed import OPERATORS, SHAPES, compare_calls
    from keelback.benchmarks.scan_inputs import ScanSize

    chosen_device(device)
    names = operator or list(OPERATORS)
    sizes = ScanSize.parse(shape) if shape else SHAPES[device]
    rows = compare_calls(names, sizes, device, dtype, repeats, peer or [])
    if json:
        print_measured({"rows": rows})
        return
    for row in rows:
        peers = "".join(f", {name} {time:.1f} us" for name, time in row["peers"].items())
        print(f"{row['operator']}, {row['pass']}: {row['ours_us']:.1f} us{peers}")

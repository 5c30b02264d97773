"""`keelback bench call`: what a call costs the host."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import Device, DType, Json, OutFile, Repeats
from keelback.device import chosen_device
from keelback.memory import require_tensors


@bench.command()
def call(
    device: Device = "cpu",
    operator: Annotated[
        list[str] | None,
        typer.Option(
            help="Operator to time: selective_scan, ssd, causal_conv1d, gated_rms_norm, "
            "selective_state_update or causal_conv1d_update; may be repeated; all by default; e.g. "
            "selective_scan."
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Shape of the inputs, which should be small: batch,length,channels,state; by "
            "default 1,16,16,4 on a CPU and 16,256,96,8 on a GPU; e.g. 1,16,16,4."
        ),
    ] = None,
    dtype: DType = "float32",
    repeats: Repeats = 15,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Peer that must be installed, mamba_ssm or causal_conv1d; may be repeated; by "
            "default none is needed; e.g. mamba_ssm."
        ),
    ] = None,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Time calls on small inputs, in microseconds: without gradients, with them, with backward."""
    from keelback.benchmarks.call_speed import OPERATORS, SHAPES, benchmark
    from keelback.benchmarks.scan_inputs import ScanSize

    chosen_device(device)
    names = operator or list(OPERATORS)
    sizes = ScanSize.parse(shape) if shape else SHAPES[device]
    require_tensors(device, sizes.numbers, f"the operands at {sizes}")
    chosen = benchmark(names, sizes, device, dtype, repeats, peer or [])
    run_benchmark("bench call", chosen, out, as_json=json, show=_show)


def _show(result: Mapping[str, Any]) -> None:
    for row in result["rows"]:
        peers = "".join(f", {name} {time:.1f} us" for name, time in row["peers"].items())
        print(f"{row['operator']}, {row['pass']}: {row['ours_us']:.1f} us{peers}")

"""`keelback bench ssd`: Mamba-2's scan by heads."""

from typing import Annotated

import typer

from keelback.cli.app import print_json, provenance_of_command
from keelback.cli.bench import bench


@bench.command()
def ssd(
    device: Annotated[str, typer.Option(help="Where to run.")] = "cpu",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="batch,length,heads,head_dim,state,groups; may be given several times."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    repeats: Annotated[int, typer.Option(help="Timed runs of each; the median counts.")] = 7,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="A peer (mamba_ssm, fla) that must be there; may be given several times."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Compare Mamba-2's scan by heads with the kernels of mamba-ssm and flash-linear-attention."""
    from keelback.benchmarks.scan_peers import require_device
    from keelback.benchmarks.ssd_peers import SsdShape
    from keelback.benchmarks.ssd_speed import SHAPES, compare

    require_device(device)
    shapes = [SsdShape.parse(text) for text in shape or []]
    rows = compare(shapes or SHAPES[device], device, dtype, repeats, peer or [])
    if json:
        print_json({"rows": rows, "provenance": provenance_of_command()})
        return
    for row in rows:
        sizes = ("batch", "length", "heads", "head_dim", "state", "groups")
        print(", ".join(str(row[name]) for name in sizes) + f", {row['pass']}")
        for measure in ("gpu_ms", "call_ms", "peak_bytes"):
            values = row.get(measure, {})
            if values:
                print(f"  {measure}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
        print("  error of y: " + ", ".join(f"{k} {v['y']:.2g}" for k, v in row["errors"].items()))

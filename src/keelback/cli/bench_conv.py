"""`keelback bench conv`: the causal convolution of Mamba's block."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import Device, Json, OutFile, Repeats
from keelback.device import chosen_device
from keelback.errors import InputError
from keelback.memory import require_tensors


@bench.command()
def conv(
    device: Device = "cpu",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape of the inputs, batch,length,channels; may be repeated; by default a set "
            "of shapes for the device; e.g. 8,512,64."
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Type of the tensors: float32, bfloat16 or float16.")
    ] = "float32",
    repeats: Repeats = 7,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Compare the causal convolution, bias and SiLU with PyTorch's."""
    from keelback.benchmarks.conv_speed import SHAPES, benchmark

    chosen_device(device)
    try:
        shapes = [tuple(map(int, text.split(","))) for text in shape or []]
    except ValueError:
        raise InputError(f"--shape should be batch,length,channels; it is {shape}") from None
    for one in shapes:
        require_tensors(device, 4.0 * math.prod(one), f"the operands at {','.join(map(str, one))}")
    chosen = benchmark(shapes or SHAPES[device], device, dtype, repeats)
    run_benchmark("bench conv", chosen, out, as_json=json, show=_show)


def _show(result: Mapping[str, Any]) -> None:
    for row in result["rows"]:
        peers = "".join(f", {name} {time:.3f} ms" for name, time in row["peers"].items())
        sizes = ", ".join(str(row[name]) for name in ("batch", "length", "channels"))
        print(f"{sizes}, {row['pass']}: {row['ours_ms']:.3f} ms{peers}")

"""`keelback bench conv`: the causal convolution of Mamba's block."""

import math
from typing import Annotated

import typer

from keelback.cli.app import print_measured
from keelback.cli.bench import bench
from keelback.cli.options import Device, Json, Repeats
from keelback.cli.progress import work_progress
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
    json: Json = False,
) -> None:
    """Compare the causal convolution, bias and SiLU with PyTorch's."""
    from keelback.benchmarks.conv_speed import SHAPES, compare_convolutions

    chosen_device(device)
    try:
        shapes = [tuple(map(int, text.split(","))) for text in shape or []]
    except ValueError:
        raise InputError(f"--shape should be batch,length,channels; it is {shape}") from None
    for one in shapes:
        require_tensors(device, 4.0 * math.prod(one), f"the operands at {','.join(map(str, one))}")
    with work_progress("bench conv"):
        rows = compare_convolutions(shapes or SHAPES[device], device, dtype, repeats)
    if json:
        print_measured({"rows": rows})
        return
    for row in rows:
        peers = "".join(f", {name} {time:.3f} ms" for name, time in row["peers"].items())
        sizes = ", ".join(str(row[name]) for name in ("batch", "length", "channels"))
        print(f"{sizes}, {row['pass']}: {row['ours_ms']:.3f} ms{peers}")

"""`keelback bench transformers`: Mambas of transformers with keelback's scan and without."""

from typing import Annotated

import typer

from keelback.cli.app import print_measured
from keelback.cli.bench import bench
from keelback.cli.options import Device, Json
from keelback.cli.progress import work_progress
from keelback.device import chosen_device
from keelback.extras import require_extra
from keelback.memory import require_tensors


@bench.command()
def transformers(
    device: Device = "cpu",
    length: Annotated[
        int, typer.Option(min=1, help="Length of the training sequence in tokens.")
    ] = 512,
    layers: Annotated[int, typer.Option(min=1, help="Number of layers of the model.")] = 4,
    d_model: Annotated[
        int, typer.Option(min=1, help="Number of channels of the model, d_model.")
    ] = 768,
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of timed steps; the fastest counts.")
    ] = 3,
    loop: Annotated[
        bool,
        typer.Option(
            "--loop/--no-loop",
            help="Time transformers' own loop too, which takes minutes on a CPU, or leave it out.",
        ),
    ] = True,
    json: Json = False,
) -> None:
    """Time a training step and generation of a Mamba of Hugging Face transformers."""
    from keelback.benchmarks.mamba_size import mamba_numbers
    from keelback.benchmarks.transformers_speed import ModelSize, compare_in_transformers

    require_extra("hf", "bench transformers")
    chosen_device(device)
    require_tensors(
        device, 3 * mamba_numbers(layers, d_model, length), "the weights and activations"
    )
    size = ModelSize(layers=layers, d_model=d_model, length=length)
    with work_progress("bench transformers"):
        result = compare_in_transformers(size, device, repeats, loop=loop)
    if json:
        print_measured(result)
    else:
        for name, value in result.items():
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")

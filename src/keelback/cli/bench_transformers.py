"""`keelback bench transformers`: Mambas of transformers with keelback's scan and without."""

from typing import Annotated

import typer

from keelback.cli.app import Json, print_measured
from keelback.cli.bench import bench
from keelback.device import chosen_device


@bench.command()
def transformers(
    device: Annotated[str, typer.Option(help="Where to run.")] = "cpu",
    length: Annotated[int, typer.Option(help="Length of the training sequence.", min=1)] = 512,
    layers: Annotated[int, typer.Option(help="Layers of the model.", min=1)] = 4,
    d_model: Annotated[int, typer.Option(help="Width of the model.", min=1)] = 768,
    repeats: Annotated[int, typer.Option(help="Timed steps; the fastest counts.", min=1)] = 3,
    loop: Annotated[
        bool, typer.Option(help="Also time transformers' own loop, which takes minutes on a CPU.")
    ] = True,
    json: Json = False,
) -> None:
    """Time a training step and generation of a Mamba of Hugging Face transformers."""
    from keelback.benchmarks.transformers_speed import ModelSize, compare_in_transformers

    chosen_device(device)
    size = ModelSize(layers=layers, d_model=d_model, length=length)
    result = compare_in_transformers(size, device, repeats, loop=loop)
    if json:
        print_measured(result)
    else:
        for name, value in result.items():
            print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")

"""`keelback bench transformers`: Mambas of transformers by keelback's operators and by others."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import Device, DType, Json, OutFile
from keelback.device import chosen_device
from keelback.extras import require_extra
from keelback.memory import require_tensors


@bench.command()
def transformers(
    family: Annotated[
        str, typer.Option(help="Family of the model: mamba or mamba2; e.g. mamba2.")
    ] = "mamba",
    device: Device = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Number of sequences of a batch.")] = 1,
    length: Annotated[
        int, typer.Option(min=1, help="Length of the training sequences in tokens.")
    ] = 512,
    layers: Annotated[int, typer.Option(min=1, help="Number of layers of the model.")] = 4,
    d_model: Annotated[
        int, typer.Option(min=1, help="Number of channels of the model, d_model.")
    ] = 768,
    dtype: DType = "float32",
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of timed runs of each; the median counts.")
    ] = 3,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Peer that must be installed: mamba_ssm, which stands for mamba-ssm and "
            "causal-conv1d; by default none is needed; e.g. mamba_ssm."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Peer to leave out: mamba_ssm, or transformers, whose own path takes minutes on a "
            "CPU; may be repeated; by default none; e.g. transformers."
        ),
    ] = None,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Time a training step and generation of a Mamba or Mamba-2 of Hugging Face transformers."""
    from keelback.benchmarks.mamba_size import mamba_numbers
    from keelback.benchmarks.transformers_speed import ModelSize, benchmark

    require_extra("hf", "bench transformers", ["transformers"])
    chosen_device(device)
    size = ModelSize(family, layers, d_model, batch, length, dtype)
    tokens = batch * length
    require_tensors(
        device, 3 * mamba_numbers(layers, d_model, tokens), "the weights and activations"
    )
    chosen = benchmark(size, device, repeats, required=peer or (), without=without or ())
    run_benchmark("bench transformers", chosen, out, as_json=json, show=_show)


def _show(result: Mapping[str, Any]) -> None:
    for row in result["rows"]:
        print(row["scan"])
        for name, value in row.items():
            if name != "scan" and value is not None:
                print(f"  {name}: {value:.4g}")
    for what, of_peers in result["ratios"].items():
        for name, ratio in of_peers.items():
            print(f"{what}, time of {name} / keelback: {ratio:.3g}")

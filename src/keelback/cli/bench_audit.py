"""`keelback bench audit`: an audit beside the model's plain forward pass."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import DeviceOrBest, Json, OutFile
from keelback.device import chosen_device
from keelback.extras import require_extra
from keelback.memory import require_tensors


@bench.command()
def audit(
    layers: Annotated[int, typer.Option(min=1, help="Number of layers of the random Mamba.")] = 24,
    d_model: Annotated[
        int, typer.Option(min=1, help="Number of channels of the model, d_model.")
    ] = 768,
    length: Annotated[int, typer.Option(min=2, help="Length of the sequence in tokens.")] = 4096,
    device: DeviceOrBest = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of runs of each; the first and the fastest count.")
    ] = 1,
    with_transformers: Annotated[
        bool, typer.Option("--with-transformers", help="Also time transformers without keelback.")
    ] = False,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Compare an audit with the model's forward pass, in seconds and memory."""
    from keelback.benchmarks.audit_speed import benchmark
    from keelback.benchmarks.mamba_size import mamba_numbers

    require_extra("hf", "bench audit")
    chosen = chosen_device(device)
    require_tensors(chosen, mamba_numbers(layers, d_model, length), "the weights and activations")
    measured = benchmark(
        layers,
        d_model,
        length,
        chosen,
        repeats,
        with_transformers=with_transformers,
        report=_say,
    )
    run_benchmark("bench audit", measured, out, as_json=json, show=_show)


def _show(result: Mapping[str, Any]) -> None:
    if ratio := result.get("audit_over_forward"):
        print(
            f"the audit takes {ratio['seconds']:.2f} times the forward pass's time and "
            f"{ratio['peak_gib']:.2f} times its memory"
        )


def _say(row: dict[str, Any]) -> None:
    print(
        f"{row['run']:33} {row['seconds']:8.2f} s (the first time {row['first_seconds']:.2f} s)  "
        f"{row['peak_gib']:6.2f} GiB",
        file=sys.stderr,
        flush=True,
    )

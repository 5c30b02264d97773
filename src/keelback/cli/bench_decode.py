"""`keelback bench decode`: one step of the recurrence, as in generation."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import Device, Json, OutFile, Repeats
from keelback.device import chosen_device
from keelback.memory import require_tensors


@bench.command()
def decode(
    device: Device = "cpu",
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Number of sequences; may be repeated; by default 1, 4, 16, 64 and 256; e.g. 16.",
        ),
    ] = None,
    channels: Annotated[int, typer.Option(min=1, help="Number of channels.")] = 1536,
    state: Annotated[int, typer.Option(min=1, help="Number of states of a channel.")] = 16,
    heads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of heads that share out the channels, as in Mamba-2; by default the "
            "channels are those of Mamba; e.g. 24.",
        ),
    ] = None,
    groups: Annotated[
        int, typer.Option(min=1, help="Number of groups of heads that share B and C.")
    ] = 1,
    dtype: Annotated[
        str, typer.Option(help="Type of the tensors: float32, bfloat16 or float16.")
    ] = "float32",
    repeats: Repeats = 15,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Peer that must be installed: mamba_ssm, or on a CPU with heads also "
            "transformers; may be repeated; by default none is needed; e.g. mamba_ssm."
        ),
    ] = None,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Time a decoding step of Mamba or Mamba-2 beside those of mamba-ssm and transformers."""
    from keelback.benchmarks.decode_speed import DecodeShape, benchmark

    chosen_device(device)
    shape = DecodeShape(channels, state, heads, groups)
    batches = batch or [1, 4, 16, 64, 256]
    for count in batches:
        require_tensors(
            device, channels * (float(state) * (count + 1) + 4 * count), "the states and operands"
        )
    chosen = benchmark(batches, device, dtype, repeats, shape, peer or [])
    run_benchmark("bench decode", chosen, out, as_json=json, show=_show)


def _show(result: Mapping[str, Any]) -> None:
    for row in result["rows"]:
        peers = "".join(f", {name} {time:.4f} ms" for name, time in row["peers"].items())
        print(f"batch {row['batch']}, {row['pass']}: {row['ours_ms']:.4f} ms{peers}")

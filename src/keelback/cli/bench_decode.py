"""`keelback bench decode`: one step of the recurrence, as in generation."""

from typing import Annotated

import typer

from keelback.cli.app import print_measured
from keelback.cli.bench import bench
from keelback.cli.options import Device, Json, Repeats
from keelback.cli.progress import work_progress
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
    dtype: Annotated[
        str, typer.Option(help="Type of the tensors: float32, bfloat16 or float16.")
    ] = "float32",
    repeats: Repeats = 15,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Peer that must be installed, mamba_ssm; by default none is needed; e.g. "
            "mamba_ssm."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Time a decoding step beside mamba-ssm's selective_state_update, if that is installed."""
    from keelback.benchmarks.decode_speed import compare_steps

    chosen_device(device)
    batches = batch or [1, 4, 16, 64, 256]
    for count in batches:
        require_tensors(
            device, channels * (float(state) * (count + 1) + 4 * count), "the states and operands"
        )
    with work_progress("bench decode"):
        rows = compare_steps(batches, device, dtype, repeats, channels, state, peer or [])
    if json:
        print_measured({"rows": rows})
        return
    for row in rows:
        peers = "".join(f", {name} {time:.4f} ms" for name, time in row["peers"].items())
        print(f"batch {row['batch']}, {row['pass']}: {row['ours_ms']:.4f} ms{peers}")

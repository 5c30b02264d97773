"""`keelback bench decode`: one step of the recurrence, as in generation."""

from typing import Annotated

import typer

from keelback.cli.app import Json, print_measured
from keelback.cli.bench import bench
from keelback.device import chosen_device


@bench.command()
def decode(
    device: Annotated[str, typer.Option(help="Where to run.")] = "cpu",
    batch: Annotated[
        list[int] | None, typer.Option(help="Sequences; may be given several times.", min=1)
    ] = None,
    channels: Annotated[int, typer.Option(help="Channels.", min=1)] = 1536,
    state: Annotated[int, typer.Option(help="States of a channel.", min=1)] = 16,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    repeats: Annotated[int, typer.Option(help="Timed runs of each; the median counts.")] = 15,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="A peer (mamba_ssm) that must be there."),
    ] = None,
    json: Json = False,
) -> None:
    """Time a decoding step beside mamba-ssm's selective_state_update, if that is installed."""
    from keelback.benchmarks.decode_speed import compare_steps

    chosen_device(device)
    batches = batch or [1, 4, 16, 64, 256]
    rows = compare_steps(batches, device, dtype, repeats, channels, state, peer or [])
    if json:
        print_measured({"rows": rows})
        return
    for row in rows:
        peers = "".join(f", {name} {time:.4f} ms" for name, time in row["peers"].items())
        print(f"batch {row['batch']}, {row['pass']}: {row['ours_ms']:.4f} ms{peers}")

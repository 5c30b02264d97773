"""`keelback bench audit`: an audit beside the model's plain forward pass."""

import sys
from typing import Annotated, Any

import typer

from keelback.cli.app import Json, print_measured
from keelback.cli.bench import bench
from keelback.device import chosen_device


@bench.command()
def audit(
    layers: Annotated[int, typer.Option(help="Layers of the random Mamba.")] = 24,
    d_model: Annotated[int, typer.Option(help="Its width.")] = 768,
    length: Annotated[int, typer.Option(help="Tokens.")] = 4096,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (cuda where there is).")] = None,
    repeats: Annotated[int, typer.Option(help="Runs of each; first and fastest are given.")] = 1,
    with_transformers: Annotated[
        bool, typer.Option("--with-transformers", help="Also time transformers without keelback.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare an audit with the model's forward pass, in seconds and memory."""
    from keelback.benchmarks.audit_speed import audit_speed

    result = audit_speed(
        layers,
        d_model,
        length,
        chosen_device(device),
        repeats,
        with_transformers=with_transformers,
        report=_say,
    )
    if json:
        print_measured(result)
        return
    ratio = result["audit_over_forward"]
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

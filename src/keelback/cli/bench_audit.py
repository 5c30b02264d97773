"""`keelback bench audit`: an audit beside the model's plain forward pass."""

from typing import Annotated

import typer

from keelback.cli.app import print_json
from keelback.cli.audit import chosen_device
from keelback.cli.bench import bench


@bench.command()
def audit(
    layers: Annotated[int, typer.Option(help="Layers of the random Mamba.")] = 24,
    d_model: Annotated[int, typer.Option(help="Its width.")] = 768,
    length: Annotated[int, typer.Option(help="Tokens.")] = 4096,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (cuda where there is).")] = None,
    with_transformers: Annotated[
        bool, typer.Option("--with-transformers", help="Also time transformers without keelback.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Compare an audit with the model's forward pass, in seconds and memory."""
    from keelback.benchmarks.audit_speed import audit_speed

    result = audit_speed(
        layers, d_model, length, chosen_device(device), with_transformers=with_transformers
    )
    if json:
        print_json(result)
        return
    for name, row in result["rows"].items():
        print(f"{name:13} {row['seconds']:8.1f} s  {row['peak_bytes'] / 2**30:6.2f} GiB")
    print(
        f"the audit takes {result['audit_over_forward']:.2f} times the forward pass's time and "
        f"{result['memory_over_forward']:.2f} times its memory"
    )

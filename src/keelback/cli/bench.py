"""`keelback bench`: speed and memory, side by side with peers."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from keelback.cli.app import Commands, Json, app, print_measured
from keelback.errors import InputError

bench = Commands(help="Measure speed and memory against peers.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command()
def scan(
    device: Annotated[str, typer.Option(help="Where to run.")] = "cpu",
    shape: Annotated[
        list[str] | None,
        typer.Option(help="batch,length,channels,state; may be given several times."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    repeats: Annotated[int, typer.Option(help="Timed runs of each; the median counts.")] = 7,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="A peer that must be there; may be given several times."),
    ] = None,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Instead: time by length up to a million steps.")
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Instead: peak memory of a training step.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare the selective scan with the fastest of its peers on this machine."""
    from keelback.benchmarks import ScanSize, default_shapes, memory_ratio
    from keelback.benchmarks import scaling as scaling_of
    from keelback.benchmarks.scan_speed import summary

    if scaling and (memory or shape):
        other = "--memory" if memory else "--shape"
        raise InputError(f"--scaling and {other} are both given; one of them should be")
    shapes = [ScanSize.parse(text) for text in shape or []]
    result: dict[str, Any]
    if memory:
        measured = shapes or [ScanSize(1, 100_000, 64, 16)]
        result = {"rows": [{**asdict(one), **memory_ratio(one)} for one in measured]}
    elif scaling:
        result = scaling_of(device, repeats)
    else:
        result = summary(shapes or default_shapes(device), device, dtype, repeats, peer or [])
    if json:
        print_measured(result)
    else:
        _print_rows(result)


def _print_rows(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = [_flat(row) for row in result["rows"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table()
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in names))
    console = Console()
    console.print(table)
    for name, exponent in result.get("exponents", {}).items():
        console.print(f"{name}: time grows as length ** {exponent:.3f}")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    sizes = [name for name in ("batch", "length", "channels", "state") if name in row]
    shape = {"shape": ",".join(str(row[name]) for name in sizes)} if sizes else {}
    peers = {f"{name} (ms)": time for name, time in row.get("peers", {}).items()}
    apart = ("peers", "ratio", *sizes)
    kept = {name: value for name, value in row.items() if name not in apart}
    return {**shape, **kept, **peers, **({"ratio": row["ratio"]} if "ratio" in row else {})}


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)

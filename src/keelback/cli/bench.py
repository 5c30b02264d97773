"""`keelback bench`: speed and memory, side by side with peers."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from keelback.cli.app import Commands, app
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import Device, DType, Json, OutFile, Repeats, refuse_beside
from keelback.cli.terminal import console
from keelback.errors import InputError
from keelback.memory import require_tensors

bench = Commands(
    help="Measure speed and memory, compared with other implementations of the same operation.",
    no_args_is_help=True,
)
app.add_typer(bench, name="bench")


def print_times(row: Mapping[str, Any], sizes: Sequence[str]) -> None:
    """One row of an operator beside its peers: its sizes, times, memory, and error of y."""
    print(", ".join(str(row[name]) for name in (*sizes, "pass")))
    for measure in ("gpu_ms", "call_ms", "peak_bytes"):
        if values := row.get(measure):
            print(f"  {measure}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
    if "errors" in row:
        errors = ", ".join(f"{name} {of['y']:.2g}" for name, of in row["errors"].items())
        print(f"  error of y: {errors}")


@bench.command()
def scan(
    device: Device = "cpu",
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape of the inputs, batch,length,channels,state; may be repeated; by default a "
            "set of shapes for the device; e.g. 8,512,64,16."
        ),
    ] = None,
    dtype: DType = "float32",
    repeats: Repeats = 7,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Peer that must be installed; may be repeated; by default none is needed; e.g. "
            "mambapy_pscan."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Peer to leave out, for example a slow one; may be repeated; by default none; "
            "e.g. huggingface_loop."
        ),
    ] = None,
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling",
            help="Measure instead how the time grows with the length, up to a million steps.",
        ),
    ] = False,
    memory: Annotated[
        bool,
        typer.Option("--memory", help="Measure instead the peak memory of a training step."),
    ] = False,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Compare the selective scan with the fastest of its peers on this machine."""
    from keelback.benchmarks import ScanSize, default_shapes
    from keelback.benchmarks.scan_cost import memory_benchmark, scaling_benchmark
    from keelback.benchmarks.scan_speed import benchmark

    if scaling and (memory or shape):
        other = "--memory" if memory else "--shape"
        raise InputError(f"--scaling and {other} are both given; one of them should be")
    if scaling or memory:
        idle: dict[str, Any] = {"without": without, "peer": peer, "dtype": dtype}
        idle |= {"repeats": repeats, "device": device} if memory else {}
        refuse_beside("--memory" if memory else "--scaling", idle, scan)
    shapes = [ScanSize.parse(text) for text in shape or []]
    for one in shapes:
        require_tensors("cpu" if memory else device, one.numbers, f"the operands at {one}")
    if memory:
        chosen = memory_benchmark(shapes or [ScanSize(1, 100_000, 64, 16)])
    elif scaling:
        chosen = scaling_benchmark(device, repeats)
    else:
        sizes = shapes or default_shapes(device)
        chosen = benchmark(sizes, device, dtype, repeats, peer or [], without or [])
    run_benchmark("bench scan", chosen, out, as_json=json, show=_print_rows)


def _print_rows(result: Mapping[str, Any]) -> None:
    from rich.table import Table

    rows = [_flat(row) for row in result["rows"]]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table()
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in names))
    terminal = console()
    terminal.print(table)
    if {"ours_ms", "ratio"} <= set(names):
        terminal.print("ours_ms: keelback's time. ratio: the fastest peer's time / keelback's.")
    for name, exponent in result.get("exponents", {}).items():
        terminal.print(f"{name}: time grows as length ** {exponent:.3f}")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    sizes = [name for name in ("batch", "length", "channels", "state") if name in row]
    shape = {"shape": ",".join(str(row[name]) for name in sizes)} if sizes else {}
    peers = {f"{name} (ms)": time for name, time in row.get("peers", {}).items()}
    apart = ("peers", "ratio", *sizes)
    kept = {name: value for name, value in row.items() if name not in apart}
    return {**shape, **kept, **peers, **({"ratio": row["ratio"]} if "ratio" in row else {})}


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)

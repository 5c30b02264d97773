"""`keelback bench parallel`: several processes, one GPU each, against one."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from keelback.cli.bench import bench
from keelback.cli.measuring import run_benchmark
from keelback.cli.options import Device, DTypeOfDevice, Json, OutFile, refuse_beside
from keelback.errors import InputError
from keelback.memory import require_tensors

_NUMBERS_OF_PROCESS = 3e7
"""What a process with PyTorch takes, in numbers of four bytes."""
PARTS = ("training", "scan", "ssd")
#: What A of the long sequence is multiplied with: as Mamba starts, and for a memory as long as it.
RATES = (1.0, 0.01)


@bench.command()
def parallel(
    processes: Annotated[int, typer.Option(min=2, help="Number of processes, one GPU each.")] = 2,
    device: Device = "cpu",
    only: Annotated[
        str | None,
        typer.Option(
            help="Part to measure: training (data-parallel), scan (one long sequence) or ssd (the "
            "same by heads); all by default; e.g. scan."
        ),
    ] = None,
    d_model: Annotated[
        int, typer.Option(min=1, help="Number of channels of the model to train.")
    ] = 768,
    layers: Annotated[int, typer.Option(min=1, help="Number of Mamba layers of the model.")] = 12,
    seq_len: Annotated[int, typer.Option(min=1, help="Length of the examples in tokens.")] = 1024,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Number of examples per step and process; may be repeated; default 16; e.g. 16.",
        ),
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(
            min=2,
            help="Length of the long sequence in steps; may be repeated; by default 262144 and "
            "1000000; e.g. 262144.",
        ),
    ] = None,
    channels: Annotated[
        int,
        typer.Option(
            min=1, help="Number of channels of the long sequence, for ssd a multiple of 64."
        ),
    ] = 1536,
    state: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of states of a channel; by default 16 for scan and 128 for ssd; e.g. 16.",
        ),
    ] = None,
    dtype: DTypeOfDevice = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of timed scans; the median counts.")
    ] = 5,
    out: OutFile = None,
    json: Json = False,
) -> None:
    """Compare training and long scans on several processes with the same on one."""
    from keelback.benchmarks.long_scans import LongScan, LongScanByHeads
    from keelback.benchmarks.mamba_size import mamba_numbers
    from keelback.benchmarks.parallel import Sizes, benchmark
    from keelback.benchmarks.parallel_training import TrainingSize

    if only not in (None, *PARTS):
        raise InputError(f"--only is {only!r}; it should be one of {', '.join(PARTS)}")
    of_training = {"d_model": d_model, "layers": layers, "seq_len": seq_len, "batch": batch}
    of_scans = {"length": length, "channels": channels, "state": state, "repeats": repeats}
    of_ssd = {"dtype": dtype}
    idle: dict[str, dict[str, Any]] = {
        "training": of_scans | of_ssd,
        "scan": of_training | of_ssd,
        "ssd": of_training,
    }
    if only is not None:
        refuse_beside(f"--only {only}", idle[only], parallel)
    parts = PARTS if only is None else (only,)
    lengths = length or [262_144, 1_000_000]
    for steps in lengths:
        if steps % processes:
            raise InputError(f"length {steps} should be a multiple of the {processes} processes")
    of_device = dtype or ("float32" if device == "cpu" else "bfloat16")
    both = [(n, rate) for n in lengths for rate in RATES]
    scans = [LongScan(n, channels, state or 16, rate) for n, rate in both if "scan" in parts]
    by_heads = [
        LongScanByHeads(n, channels, state or 128, rate, of_device)
        for n, rate in both
        if "ssd" in parts
    ]
    require_tensors(device, processes * _NUMBERS_OF_PROCESS, f"{processes} processes")
    for scan in (*scans, *by_heads):
        numbers = float(scan.length) * (4 * scan.channels + 2 * scan.state)
        require_tensors(device, numbers, f"the operands of {scan.length} steps")
    batches = (batch or [16]) if "training" in parts else []
    for count in batches:
        numbers = 3 * mamba_numbers(layers, d_model, count * seq_len)
        require_tensors(device, processes * numbers, "the weights and activations")
    sizes = Sizes(
        large=TrainingSize(d_model, layers, seq_len, batch=1, precision="bfloat16"),
        batches=batches,
        scans=scans,
        scans_by_heads=by_heads,
        repeats=repeats,
    )
    chosen = benchmark(processes, device, sizes)
    run_benchmark("bench parallel", chosen, out, as_json=json, show=_show)


def _show(result: Mapping[str, Any]) -> None:
    for part in ("loss_curves", "scaling", "scans", "scans_by_heads"):
        for row in result.get(part, []):
            print(", ".join(f"{name}: {value}" for name, value in row.items()))

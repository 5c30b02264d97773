"""How the scan's time grows with the length, and how much memory a training step takes."""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from keelback.benchmarks.benchmark import Benchmark, Found, Group
from keelback.benchmarks.scan_inputs import ScanSize, make_inputs
from keelback.benchmarks.scan_peers import keelback
from keelback.benchmarks.timing import interleaved_medians
from keelback.device import chosen_device
from keelback.errors import JobError

LENGTHS = (10_000, 31_623, 100_000, 316_228, 1_000_000)


def _slope(xs: list[float], ys: list[float]) -> float:
    return statistics.linear_regression(xs, ys).slope


def scaling(device: str, repeats: int, channels: int = 16, state: int = 16) -> dict[str, Any]:
    """Time of a scan of one sequence by its length, and the exponent fitted to it.

    Returns:
        `rows` (length, forward_ms, forward_backward_ms) and `exponents`, the slopes of the
        logarithm of time against that of length.
    """
    return scaling_benchmark(device, repeats, channels, state).run()


def scaling_benchmark(device: str, repeats: int, channels: int = 16, state: int = 16) -> Benchmark:
    """`scaling`, length by length."""
    chosen_device(device)
    rows = {f"length {length}": length for length in LENGTHS}
    group = Group(rows, partial(_times, device, repeats, channels, state))
    return Benchmark([group], partial(_scaled, channels, state))


def _times(
    device: str, repeats: int, channels: int, state: int, lengths: Sequence[int]
) -> Iterator[dict[str, Any]]:
    for length in lengths:
        call = keelback(make_inputs(ScanSize(1, length, channels, state), device, torch.float32))
        times = interleaved_medians(
            {"forward_ms": call.forward, "forward_backward_ms": call.forward_and_backward},
            device,
            repeats,
        )
        yield {"length": length, **times}


def _scaled(channels: int, state: int, found: Found) -> dict[str, Any]:
    rows = list(found.values())
    logs = [math.log(row["length"]) for row in rows]
    passes = ("forward", "forward_backward") if len(rows) > 1 else ()
    return {
        "channels": channels,
        "state": state,
        "rows": rows,
        "exponents": {
            name: _slope(logs, [math.log(row[f"{name}_ms"]) for row in rows]) for name in passes
        },
    }


def memory_benchmark(shapes: Sequence[ScanSize]) -> Benchmark:
    """`memory_ratio` on each of the shapes."""
    rows = {f"a training step on {shape}": shape for shape in shapes}
    return Benchmark([Group(rows, _memory_rows)])


def _memory_rows(shapes: Sequence[ScanSize]) -> Iterator[dict[str, Any]]:
    for shape in shapes:
        yield {**asdict(shape), **memory_ratio(shape)}


def memory_ratio(shape: ScanSize) -> dict[str, Any]:
    """Peak memory of a training step over that of its inputs, its output and all their gradients.

    Measured on the CPU, as the resident set of a fresh process.

    Raises:
        JobError: The process failed.
    """
    arguments = [str(size) for size in (shape.batch, shape.length, shape.channels, shape.state)]
    process = subprocess.run(
        [sys.executable, "-m", "keelback.benchmarks.scan_cost", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise JobError(f"measuring memory failed: {process.stderr.strip().splitlines()[-1:]}")
    return dict(json.loads(process.stdout))


def resident(field: str) -> int:
    """Bytes of this process's memory, as the kernel has them in `field` of its status.

    Raises:
        JobError: The system has no such file.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise JobError(f"{field} is not in /proc/self/status; memory is measured on Linux only")


def _training_step(shape: ScanSize) -> dict[str, Any]:
    keelback(make_inputs(ScanSize(1, 8, 16, 2), "cpu", torch.float32)).forward_and_backward()
    before = resident("VmRSS")
    # Lets the peak start from here.
    Path("/proc/self/clear_refs").write_text("5")
    call = keelback(make_inputs(shape, "cpu", torch.float32))
    gradients = call.forward_and_backward()
    peak = resident("VmHWM") - before
    tensors = (*call.leaves, *gradients, call.dy, call.dy)
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return {"peak_bytes": peak, "tensor_bytes": held, "ratio": peak / held}


if __name__ == "__main__":
    print(json.dumps(_training_step(ScanSize(*(int(size) for size in sys.argv[1:])))))

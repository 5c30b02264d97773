"""How the scan's time grows with the length, and how much memory a training step takes."""

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

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
    chosen_device(device)
    rows = []
    for length in LENGTHS:
        call = keelback(make_inputs(ScanSize(1, length, channels, state), device, torch.float32))
        times = interleaved_medians(
            {"forward_ms": call.forward, "forward_backward_ms": call.forward_and_backward},
            device,
            repeats,
        )
        rows.append({"length": length, **times})
    logs = [math.log(row["length"]) for row in rows]
    return {
        "channels": channels,
        "state": state,
        "rows": rows,
        "exponents": {
            name: _slope(logs, [math.log(row[f"{name}_ms"]) for row in rows])
            for name in ("forward", "forward_backward")
        },
    }


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

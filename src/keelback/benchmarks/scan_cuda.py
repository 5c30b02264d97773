"""The scan on an NVIDIA GPU beside its peers: time, distance from the floor, memory."""

import ctypes
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.scan_inputs import Inputs, ScanSize
from keelback.benchmarks.scan_peers import Call

#: Written between timed runs: several times the second-level cache, and long enough on the GPU for
#: the host to have enqueued the timed call before the GPU is through with it.
FLUSH_BYTES = 1 << 30
FLUSHES = 4
#: Exponentials that a multiprocessor's special-function units start in one clock (compute
#: capability 7.0 to 9.0).
EXPONENTIALS_PER_CLOCK = 16
PASSES = ("forward", "backward")
_CLOCK_RATE = 13  # CU_DEVICE_ATTRIBUTE_CLOCK_RATE, in kilohertz


@dataclass(frozen=True)
class Limits:
    """What the GPU can do at best."""

    bytes_per_second: float
    exponentials_per_second: float

    def floor_ms(self, moved_bytes: int, exponentials: int) -> float:
        """The least time in milliseconds in which a pass could move its bytes and exponentiate."""
        by_bytes = moved_bytes / self.bytes_per_second
        return 1e3 * max(by_bytes, exponentials / self.exponentials_per_second)


@cache
def limits() -> Limits:
    """The measured rate of a large copy on the device, and the special-function units' rate."""
    source = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy_ms = medians({"copy": lambda: target.copy_(source)}, 7)["copy"]
    properties = torch.cuda.get_device_properties()
    kilohertz = ctypes.c_int()
    driver = ctypes.CDLL("libcuda.so.1")
    driver.cuDeviceGetAttribute(ctypes.byref(kilohertz), _CLOCK_RATE, torch.cuda.current_device())
    clocks = properties.multi_processor_count * kilohertz.value * 1e3
    return Limits(2e3 * FLUSH_BYTES / copy_ms, EXPONENTIALS_PER_CLOCK * clocks)


def medians(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each call on the GPU in milliseconds, cold caches, calls interleaved."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(FLUSHES):
                flush.zero_()
            start.record()
            call()
            end.record()
            end.synchronize()
            times[name].append(start.elapsed_time(end))
    return {name: statistics.median(found) for name, found in times.items()}


def peak_bytes(call: Call) -> int:
    """Memory that a training step takes beyond its operands, at its height."""
    call.forward_and_backward()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradients = call.forward_and_backward()
    torch.cuda.synchronize()
    del gradients
    return torch.cuda.max_memory_allocated() - before


def backward(call: Call) -> Callable[[], tuple[Tensor, ...]]:
    """The backward pass alone, after a forward pass now."""
    leaves = tuple(leaf.detach().requires_grad_() for leaf in call.leaves)
    y = call.run(*leaves)
    return lambda: torch.autograd.grad(y, leaves, call.dy, retain_graph=True)


def compare_on_gpu(
    shape: ScanSize,
    inputs: Inputs,
    calls: Mapping[str, Call],
    best: Limits,
    repeats: int,
    passes: Sequence[str] = PASSES,
) -> Iterator[dict[str, Any]]:
    """Time forward and backward of calls on the same inputs; "ours" is among them.

    Yields:
        One row a pass, with `ours_ms`, `peers` (milliseconds by name), `ratio` (the fastest peer
        over ours), `floor_ms`, and `peak_bytes` of a training step by name.
    """
    operand_bytes = sum(x.numel() * x.element_size() for x in inputs.operands)
    output_bytes = inputs.dy.numel() * inputs.dy.element_size()
    exponentials = shape.batch * shape.length * shape.channels * shape.state
    moved = {
        "forward": operand_bytes + output_bytes,
        "backward": 2 * operand_bytes + output_bytes,
    }
    peaks = {name: peak_bytes(call) for name, call in calls.items()}
    for pass_ in passes:
        runs = {
            name: call.forward if pass_ == "forward" else backward(call)
            for name, call in calls.items()
        }
        times = medians(runs, repeats)
        ours_ms = times.pop("ours")
        row: dict[str, Any] = {
            **asdict(shape),
            "dtype": str(inputs.u.dtype).removeprefix("torch."),
            "pass": pass_,
            "ours_ms": ours_ms,
            "floor_ms": best.floor_ms(moved[pass_], exponentials),
            "peers": times,
            "peak_bytes": peaks,
        }
        if times:
            row["ratio"] = min(times.values()) / ours_ms
        yield row

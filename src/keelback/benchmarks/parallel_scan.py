"""One long sequence over several processes against the same on one: exactness and cost."""

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from keelback.benchmarks.processes import alone
from keelback.models.mamba_stack import STEP_RANGE
from keelback.scan import selective_scan, selective_scan_across
from keelback.training import Place

ALONG = ("y", "u", "delta", "B", "C")
"""What is cut along the length; gradients of the other operands are summed over the processes."""

#: Sequences up to this length are also scanned in float64, which takes much memory.
_PRECISE = 300_000

Operands = dict[str, Tensor]
Scan = Callable[..., Any]


@dataclass(frozen=True)
class LongScan:
    """A sequence too long for one's patience or memory; a batch of one.

    Step sizes and A start as Mamba's, A times `rate`: at a hundredth, states are remembered for
    some hundred thousand steps.
    """

    length: int
    channels: int
    state: int
    rate: float = 1.0

    def operands(self, parts: range, of: int, device: torch.device) -> tuple[Operands, Tensor]:
        """Those of some of the parts, and the gradient of their output.

        Each part comes from a generator of its own, so that it is the same within the whole.
        """
        size = self.length // of
        shapes = {
            "u": (self.channels,),
            "delta": (self.channels,),
            "B": (1, self.state),
            "C": (1, self.state),
            "dy": (self.channels,),
        }
        found = {
            name: torch.empty(1, size * len(parts), *shape, device=device)
            for name, shape in shapes.items()
        }
        for start, part in zip(range(0, self.length, size), parts, strict=False):
            generator = torch.Generator(device).manual_seed(part)
            for x in found.values():
                x[:, start : start + size].normal_(generator=generator)
        generator = torch.Generator().manual_seed(of)
        rates = self.rate * torch.arange(1.0, self.state + 1).repeat(self.channels, 1)
        dy = found.pop("dy")
        found["A"] = -rates.to(device)
        found["D"] = torch.randn(self.channels, generator=generator).to(device)
        low, high = map(math.log, STEP_RANGE)
        steps = torch.empty(self.channels).uniform_(low, high, generator=generator).exp()
        bias = steps.expm1().log()
        found["delta_bias"] = bias.to(device)
        return {name: x.requires_grad_() for name, x in found.items()}, dy


@dataclass(frozen=True)
class Found:
    """Output and gradients by name, milliseconds by pass, and memory beyond the operands."""

    tensors: Operands
    times: dict[str, float]
    peak_bytes: int | None


def _measured(scan: Scan, operands: Operands, dy: Tensor, repeats: int, wait: Scan) -> Found:
    def forward() -> Tensor:
        with torch.no_grad():
            return scan(**operands, delta_softplus=True)

    def forward_and_backward() -> tuple[Tensor, ...]:
        y = scan(**operands, delta_softplus=True)
        return (y.detach(), *torch.autograd.grad(y, list(operands.values()), dy))

    on_gpu = dy.device.type != "cpu"
    before = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    tensors = forward_and_backward()
    peak = torch.cuda.max_memory_allocated() - before if on_gpu else None
    passes = {"forward": forward, "forward+backward": forward_and_backward} if repeats else {}
    times = {name: _milliseconds(call, repeats, wait) for name, call in passes.items()}
    return Found(dict(zip(("y", *operands), tensors, strict=True)), times, peak)


def _milliseconds(call: Callable[[], object], repeats: int, wait: Callable[[], None]) -> float:
    synchronize = torch.accelerator.synchronize if torch.accelerator.is_available() else wait
    call()
    times = []
    for _ in range(repeats):
        wait()
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _largest(value: float, place: Place) -> float:
    """Of the processes' values."""
    found = torch.tensor(value, dtype=torch.float64, device=place.device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found)


def compare_scan(place: Place, case: LongScan, repeats: int) -> list[dict[str, Any]]:
    """Time, memory and largest error of `selective_scan_across`, a row a pass.

    Errors are against float64 on one process, where the length allows it, and else of several
    processes against one, in float32; relative to the largest number of a tensor, the largest of
    the output and all gradients. The exchange is one gathering of states and decays a pass.
    """
    processes, rank = dist.get_world_size(), dist.get_rank()
    one = alone(place, lambda: _on_one(place, case, processes, repeats))
    operands, dy = case.operands(range(rank, rank + 1), processes, place.device)
    many = _measured(selective_scan_across, operands, dy, repeats, place.wait_for_all)
    times = {name: _largest(ms, place) for name, ms in many.times.items()}
    exchange = _largest(_exchange_ms(case, place, repeats), place)
    between = _error(many, one, place)
    precise = None
    if case.length <= _PRECISE:
        precise = alone(place, lambda: _on_one(place, case, processes, 0, torch.float64))
    of_many = _error(many, precise, place) if case.length <= _PRECISE else ""
    if one is None:
        return []
    rows = []
    for name, gathered in (("forward", 1), ("forward+backward", 2)):
        row: dict[str, Any] = {
            "length": case.length,
            "channels": case.channels,
            "state": case.state,
            "A, times": case.rate,
            "pass": name,
            "ms, 1": one.times[name],
            f"ms, {processes}": times[name],
            "of it exchange": gathered * exchange,
            "GB, 1": _gigabytes(one, gathered),
            f"GB each, {processes}": _gigabytes(many, gathered),
            f"error, {processes} to 1": between,
            "1 to float64": _error_of_one(one, precise) if precise is not None else "",
            f"{processes} to float64": of_many,
        }
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    return rows


def _gigabytes(found: Found, gathered: int) -> float | str:
    return "" if found.peak_bytes is None or gathered == 1 else found.peak_bytes / 1e9


def _on_one(
    place: Place,
    case: LongScan,
    processes: int,
    repeats: int,
    dtype: torch.dtype = torch.float32,
) -> Found:
    operands, dy = case.operands(range(processes), processes, place.device)
    operands = {name: x.detach().to(dtype).requires_grad_() for name, x in operands.items()}
    return _measured(selective_scan, operands, dy.to(dtype), repeats, lambda: None)


def _error_of_one(one: Found, precise: Found) -> float:
    return max(
        float((x - precise.tensors[name]).abs().max() / precise.tensors[name].abs().max())
        for name, x in one.tensors.items()
    )


def _error(many: Found, one: Found | None, place: Place) -> float:
    """The largest difference from what one process found, over the largest number there."""
    return max(_error_of_part(name, x, one, place) for name, x in many.tensors.items())


def _error_of_part(name: str, found: Tensor, one: Found | None, place: Place) -> float:
    processes = dist.get_world_size()
    dtype = _dtype_of(one, place)
    if name in ALONG:
        expected = torch.empty_like(found, dtype=dtype)
        if one is not None:
            parts = one.tensors[name].tensor_split(processes, dim=1)
            expected = parts[0]
            for other in range(1, processes):
                dist.send(parts[other].contiguous(), other)
        else:
            dist.recv(expected, 0)
    else:
        found = found.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(found)
        expected = torch.empty_like(found, dtype=dtype)
        if one is not None:
            expected.copy_(one.tensors[name])
        dist.broadcast(expected, 0)
    difference = _largest(float((found - expected).abs().max()), place)
    return difference / _largest(float(expected.abs().max()), place)


def _dtype_of(one: Found | None, place: Place) -> torch.dtype:
    """The dtype of what the first process found, told to all."""
    precise = one is not None and one.tensors["y"].dtype == torch.float64
    return torch.float64 if place.any(precise) else torch.float32


def _exchange_ms(case: LongScan, place: Place, repeats: int) -> float:
    own = torch.zeros(2, 1, case.channels, case.state, device=place.device)
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    return _milliseconds(lambda: dist.all_gather(parts, own), 10 * repeats, place.wait_for_all)

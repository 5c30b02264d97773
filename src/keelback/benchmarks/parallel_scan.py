"""One long sequence over several processes against the same on one: exactness and cost."""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from keelback.benchmarks.long_scans import LongSequence, Operands
from keelback.benchmarks.processes import alone
from keelback.training import Place

#: Sequences up to this length are also scanned in float64, which takes much memory.
_PRECISE = 300_000

Scan = Callable[..., Tensor]


@dataclass(frozen=True)
class Found:
    """Output and gradients by name, milliseconds by pass, and memory beyond the operands."""

    tensors: Operands
    times: dict[str, float]
    peak_bytes: int | None


def _measured(
    scan: Scan, operands: Operands, dy: Tensor, repeats: int, wait: Callable[[], None]
) -> Found:
    def forward() -> Tensor:
        with torch.no_grad():
            return scan(**operands)

    def forward_and_backward() -> tuple[Tensor, ...]:
        y = scan(**operands)
        return (y.detach(), *torch.autograd.grad(y, list(operands.values()), dy))

    on_gpu = dy.device.type != "cpu"
    before = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    tensors = forward_and_backward()
    peak = torch.cuda.max_memory_allocated() - before if on_gpu else None
    passes = {"forward": forward, "forward+backward": forward_and_backward} if repeats else {}
    times = {name: _milliseconds(call, repeats, wait) for name, call in passes.items()}
    named = zip(("y", *operands), tensors, strict=True)
    return Found({name: _widened(x) for name, x in named}, times, peak)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype.itemsize < 4 else x


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


def compare_scan(place: Place, case: LongSequence, repeats: int) -> list[dict[str, Any]]:
    """Time, memory and largest error of a scan across processes, a row a pass.

    Errors are against float64 on one process, where the length allows it, and else of several
    processes against one, in float32; relative to the largest number of a tensor, the largest of
    the output and all gradients. The exchange is one gathering of states and decays a pass.
    """
    processes, rank = dist.get_world_size(), dist.get_rank()
    one = alone(place, lambda: _on_one(place, case, processes, repeats))
    operands, dy = case.operands(range(rank, rank + 1), processes, place.device)
    many = _measured(case.scan_across, operands, dy, repeats, place.wait_for_all)
    times = {name: _largest(ms, place) for name, ms in many.times.items()}
    exchange = _largest(_exchange_ms(case, place, repeats), place)
    between = _error(case, many, one, place)
    precise = None
    if case.length <= _PRECISE:
        precise = alone(place, lambda: _on_one(place, case, processes, 0, torch.float64))
    of_many = _error(case, many, precise, place) if case.length <= _PRECISE else ""
    if one is None:
        return []
    rows = []
    for name, gathered in (("forward", 1), ("forward+backward", 2)):
        row: dict[str, Any] = {
            **case.sizes,
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
    case: LongSequence,
    processes: int,
    repeats: int,
    dtype: torch.dtype | None = None,
) -> Found:
    operands, dy = case.operands(range(processes), processes, place.device)
    if dtype is not None:
        operands = {name: x.detach().to(dtype).requires_grad_() for name, x in operands.items()}
        dy = dy.to(dtype)
    return _measured(case.scan, operands, dy, repeats, lambda: None)


def _error_of_one(one: Found, precise: Found) -> float:
    return max(
        float((x - precise.tensors[name]).abs().max() / precise.tensors[name].abs().max())
        for name, x in one.tensors.items()
    )


def _error(case: LongSequence, many: Found, one: Found | None, place: Place) -> float:
    """The largest difference from what one process found, over the largest number there."""
    return max(
        _error_of_part(name, name in case.along, x, one, place) for name, x in many.tensors.items()
    )


def _error_of_part(
    name: str, is_cut: bool, found: Tensor, one: Found | None, place: Place
) -> float:
    processes = dist.get_world_size()
    dtype = _dtype_of(one, place)
    if is_cut:
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


def _exchange_ms(case: LongSequence, place: Place, repeats: int) -> float:
    own = torch.zeros(case.exchanged, device=place.device)
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    return _milliseconds(lambda: dist.all_gather(parts, own), 10 * repeats, place.wait_for_all)

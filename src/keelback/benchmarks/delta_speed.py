"""A delta rule beside its peers: time on the GPU, time per call, memory, error."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.benchmark import Benchmark, Group
from keelback.benchmarks.delta_peers import (
    OURS,
    DeltaInputs,
    DeltaShape,
    Way,
    make_inputs,
    ways_of,
)
from keelback.benchmarks.scan_cost import resident
from keelback.benchmarks.scan_cuda import peak_bytes
from keelback.benchmarks.scan_inputs import dtype_named
from keelback.benchmarks.scan_peers import Call, leave_out_what_fails
from keelback.benchmarks.scan_speed import versions
from keelback.benchmarks.ssd_speed import BURST, graph_median, rows_and_refused
from keelback.benchmarks.timing import interleaved_times
from keelback.errors import JobError

SHAPES = {
    "cpu": [DeltaShape(1, 1024, 8, 64, 64, 8), DeltaShape(1, 512, 8, 128, 128, 4)],
    "cuda": [DeltaShape(2, 4096, 32, 128, 128, 32), DeltaShape(1, 16384, 32, 128, 128, 32)],
}
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
PASSES = ("forward", "forward+backward", "step")
#: Relative error of an output above which a peer computes something else.
_DIFFERENT = 0.05


def benchmark(
    shapes: Sequence[DeltaShape],
    decays: Sequence[str],
    device: str,
    dtype: str,
    repeats: int,
    required: Sequence[str] = (),
) -> Benchmark:
    """Time forward, forward with backward, and one step, of `delta_rule` and its peers.

    Its result has `rows`, one per shape, decay and pass, with numbers by name: `call_ms`,
    milliseconds of calls that follow each other; `gpu_ms`, of the kernels, from calls inside a CUDA
    graph, on a GPU only; `peak_bytes` of a training step beyond the operands (on a CPU of a
    process's resident memory), not of a step; `errors`, relative in the Euclidean norm, against
    `delta_rule` in float64, not of a step. `ratios` are those of the fastest peer, or the one with
    the least memory, to ours: for `call_ms` the median of the ratios of runs side by side. And
    `refused`: what a peer said that could not run a pass. Measuring raises a JobError where a
    peer's output is not ours.

    Raises:
        InputError: A decay, the dtype or a required peer is unknown, or a required one is not
            installed.
    """
    stored = dtype_named(dtype)
    ways = {decay: ways_of(decay, device, required) for decay in decays}
    groups = [
        Group(
            {f"{pass_}, decay per {decay}, on {shape}": pass_ for pass_ in PASSES},
            partial(_rows, shape, decay, device, stored, repeats, ways[decay]),
        )
        for shape in shapes
        for decay in decays
    ]
    return Benchmark(groups, rows_and_refused, {"versions": versions()})


def _rows(
    shape: DeltaShape,
    decay: str,
    device: str,
    stored: torch.dtype,
    repeats: int,
    ways: Mapping[str, Way],
    passes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    dtype = str(stored).removeprefix("torch.")
    inputs, dy = make_inputs(shape, decay, device, stored)
    calls = {name: way.call(inputs, dy) for name, way in ways.items()}
    runs: dict[str, dict[str, Callable[[], Any]]] = {
        "forward": {name: call.forward for name, call in calls.items()},
        "forward+backward": {name: call.forward_and_backward for name, call in calls.items()},
        "step": {name: partial(_one_step, way, inputs) for name, way in ways.items()},
    }
    refused = {
        pass_: leave_out_what_fails(of_pass, f"{pass_}, decay per {decay}")
        for pass_, of_pass in runs.items()
    }
    _require_same_step(runs["step"])
    trained = {name: call for name, call in calls.items() if name in runs["forward+backward"]}
    errors = errors_of(inputs, dy, {name: calls[name] for name in runs["forward"]}, set(trained))
    peaks = {name: _peak(name, call, shape, decay, dtype) for name, call in trained.items()}
    sizes = {**shape.__dict__, "decay": decay, "dtype": dtype}
    for pass_ in passes:
        row: dict[str, Any] = {**sizes, "pass": pass_, **_times(runs[pass_], device, repeats)}
        if pass_ != "step":
            row |= {"peak_bytes": peaks, "errors": errors}
            row["ratios"] |= _ratio_of("peak_bytes", peaks)
        yield {"row": row, "refused": refused[pass_]}


def _times(
    runs: Mapping[str, Callable[[], object]], device: str, repeats: int
) -> dict[str, dict[str, float]]:
    """Of calls, and on a GPU of kernels."""
    found = interleaved_times(runs, device, repeats, BURST)
    measured = {
        "call_ms": {name: statistics.median(times) for name, times in found.items()},
        "ratios": _side_by_side(found),
    }
    if device == "cuda":
        kernels = {name: graph_median(run, repeats) for name, run in runs.items()}
        measured["gpu_ms"] = kernels
        measured["ratios"] |= _ratio_of("gpu_ms", kernels)
    return measured


def _side_by_side(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median, over runs, of the time of the fastest peer over ours."""
    peers = [found for name, found in times.items() if name != "ours"]
    if not peers:
        return {}
    ratios = [min(others) / ours for ours, *others in zip(times["ours"], *peers, strict=False)]
    return {"call_ms": statistics.median(ratios)}


def _ratio_of(measure: str, values: Mapping[str, float]) -> dict[str, float]:
    """Empty without peers, and where so little is allocated that no page is new."""
    peers = [value for name, value in values.items() if name != "ours"]
    return {measure: min(peers) / values["ours"]} if peers and values["ours"] > 0 else {}


def _one_step(way: Way, inputs: DeltaInputs) -> tuple[Tensor, Tensor]:
    """The step after states of ones."""
    now = [x[:, :1] for x in inputs]
    q, _, v, *_ = now
    if not way.grouped:
        now[:2] = [x.repeat_interleave(v.shape[2] // q.shape[2], dim=2) for x in now[:2]]
    states = torch.ones(v.shape[0], v.shape[2], q.shape[-1], v.shape[-1], device=v.device)
    with torch.no_grad():
        return way.step(states.double() if v.dtype == torch.float64 else states, *now)


def _require_same_step(runs: Mapping[str, Callable[[], Any]]) -> None:
    found = {name: run() for name, run in runs.items()}
    for name, results in found.items():
        for ours, theirs in zip(found["ours"], results, strict=True):
            if not _error(theirs, ours.double()) < _DIFFERENT:
                raise JobError(f"the step of {name} differs from ours")


def errors_of(
    inputs: DeltaInputs, dy: Tensor, calls: Mapping[str, Call], trained: set[str]
) -> dict[str, dict[str, float]]:
    """Relative errors of the output and, of those that have them, of the gradients.

    Raises:
        JobError: An output is not that of `delta_rule` in float64.
    """
    exact = [x.double().requires_grad_() for x in inputs]
    y = OURS.rule(*exact)
    gradients = torch.autograd.grad(y, exact, dy.double())
    found = {}
    for name, call in calls.items():
        errors = {"y": _error(call.forward(), y)}
        if name in trained:
            for operand, ours, theirs in zip(
                inputs._fields, gradients, call.forward_and_backward(), strict=True
            ):
                errors[f"d{operand}"] = _error(theirs, ours)
        if not max(errors.values()) < _DIFFERENT:
            raise JobError(f"the delta rule of {name} differs from ours: {errors}")
        found[name] = errors
    return found


def _error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach()
    if found.shape != expected.shape:  # Queries and keys were repeated for every head of a group.
        found = found.unflatten(2, (expected.shape[2], -1)).sum(3)
    return float((found - expected).norm() / expected.norm())


def _peak(name: str, call: Call, shape: DeltaShape, decay: str, dtype: str) -> int:
    """Memory that a training step takes beyond its operands; on a CPU measured in a new process.

    Raises:
        JobError: The process failed.
    """
    if call.dy.is_cuda:
        return peak_bytes(call)
    arguments = [name, decay, dtype, *map(str, astuple(shape))]
    command = [sys.executable, "-m", "keelback.benchmarks.delta_speed", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise JobError(f"measuring memory failed: {process.stderr.strip().splitlines()[-1:]}")
    return int(json.loads(process.stdout))


def _peak_of_this_process(name: str, decay: str, dtype: str, shape: DeltaShape) -> int:
    way = ways_of(decay, "cpu", ())[name]
    small = DeltaShape(1, 70, 1, shape.key, shape.value, 1)
    way.call(*make_inputs(small, decay, "cpu", dtype_named(dtype))).forward_and_backward()
    call = way.call(*make_inputs(shape, decay, "cpu", dtype_named(dtype)))
    before = resident("VmRSS")
    # Lets the peak start from here.
    Path("/proc/self/clear_refs").write_text("5")
    call.forward_and_backward()
    return resident("VmHWM") - before


if __name__ == "__main__":
    name, decay, dtype, *sizes = sys.argv[1:]
    print(json.dumps(_peak_of_this_process(name, decay, dtype, DeltaShape(*map(int, sizes)))))

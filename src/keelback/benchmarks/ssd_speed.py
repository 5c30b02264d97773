"""Mamba-2's scan by heads beside its peers: time on the GPU, time per call, memory, error."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.benchmark import Benchmark, Found, Group
from keelback.benchmarks.scan_cuda import peak_bytes
from keelback.benchmarks.scan_inputs import dtype_named
from keelback.benchmarks.scan_peers import leave_out_what_fails
from keelback.benchmarks.scan_speed import versions
from keelback.benchmarks.ssd_peers import (
    SsdCall,
    SsdInputs,
    SsdPeer,
    SsdShape,
    keelback,
    make_inputs,
    peers_of,
    scan,
)
from keelback.benchmarks.timing import interleaved_medians
from keelback.errors import JobError

SHAPES = {
    "cpu": [
        SsdShape(1, 2048, 24, 64, 128, 1),
        SsdShape(4, 512, 24, 64, 64, 1),
        SsdShape(1, 32768, 8, 64, 64, 1),
    ],
    "cuda": [
        SsdShape(8, 2048, 24, 64, 128, 1),
        SsdShape(1, 8192, 80, 64, 128, 1),
        SsdShape(2, 4096, 128, 64, 128, 8),
        SsdShape(1, 131072, 24, 64, 128, 1),
        SsdShape(64, 256, 24, 64, 128, 1),
    ],
}
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
PASSES = ("forward", "forward+backward")
#: Calls in one CUDA graph, and seconds of calls in a row.
CALLS_OF_GRAPH = 5
BURST = 0.05
_GRADIENTS = ("x", "dt", "A", "B", "C", "D", "dt_bias")
#: Relative error of the output above which a peer computes something else.
_DIFFERENT = 0.05


def benchmark(
    shapes: Sequence[SsdShape],
    device: str,
    dtype: str,
    repeats: int,
    required: Sequence[str] = (),
) -> Benchmark:
    """Time forward, and forward with backward, of `ssd` and its peers.

    Its result has `rows`, one per shape and pass, with milliseconds by name: `gpu_ms`, of the
    kernels, from calls inside a CUDA graph, on a GPU only; `call_ms`, of calls that follow each
    other; `peak_bytes` of a training step beyond the operands; and `errors`, relative in the
    Euclidean norm, against `ssd` in float64. `ratios` are those of the fastest peer, or the one
    with the least memory, to ours. And `refused`: what a peer said that could not run a pass.
    Measuring raises a JobError where a peer's output is not ours.

    Raises:
        InputError: The dtype or a required peer is unknown, or a required one is not installed.
    """
    peers, stored = peers_of(device, required), dtype_named(dtype)
    groups = [
        Group(
            {f"{pass_} on {shape}": pass_ for pass_ in PASSES},
            partial(_rows, shape, device, stored, repeats, peers),
        )
        for shape in shapes
    ]
    return Benchmark(groups, rows_and_refused, {"versions": versions()})


def rows_and_refused(found: Found) -> dict[str, Any]:
    """The result of rows that each come with what was refused."""
    refused = {name: said for one in found.values() for name, said in one["refused"].items()}
    return {"rows": [one["row"] for one in found.values()], "refused": refused}


def _rows(
    shape: SsdShape,
    device: str,
    dtype: torch.dtype,
    repeats: int,
    peers: Mapping[str, SsdPeer],
    passes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    inputs = make_inputs(shape, device, dtype)
    calls = {"ours": keelback(inputs), **{name: peer(inputs) for name, peer in peers.items()}}
    runs: dict[str, dict[str, Callable[[], Any]]] = {
        "forward": {name: call.forward for name, call in calls.items()},
        "forward+backward": {name: call.forward_and_backward for name, call in calls.items()},
    }
    refused = {
        pass_: leave_out_what_fails(of_pass, f"{pass_} on {shape}")
        for pass_, of_pass in runs.items()
    }
    trained = runs["forward+backward"]
    errors = errors_of(inputs, {name: calls[name] for name in runs["forward"]}, set(trained))
    peaks = {}
    if device == "cuda":
        peaks = {name: peak_bytes(calls[name]) for name in trained}
    for pass_ in passes:
        found: dict[str, dict[str, float]] = {}
        if device == "cuda":
            found["gpu_ms"] = {
                name: graph_median(run, repeats) for name, run in runs[pass_].items()
            }
        found["call_ms"] = interleaved_medians(runs[pass_], device, repeats, BURST)
        if peaks:
            found["peak_bytes"] = dict(peaks)
        row: dict[str, Any] = {
            **shape.__dict__,
            "dtype": str(dtype).removeprefix("torch."),
            "pass": pass_,
            **found,
            "errors": errors,
            "ratios": {name: _ratio(values) for name, values in found.items() if len(values) > 1},
        }
        yield {"row": row, "refused": refused[pass_]}


def _ratio(values: Mapping[str, float]) -> float:
    return min(value for name, value in values.items() if name != "ours") / values["ours"]


def captured(run: Callable[[], object], calls: int) -> torch.cuda.CUDAGraph:
    """A CUDA graph of so many calls, made after two that are not in it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            run()
    return graph


def graph_median(run: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call on the GPU alone: some calls captured in one CUDA graph."""
    graph = captured(run, CALLS_OF_GRAPH)
    times = []
    graph.replay()
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / CALLS_OF_GRAPH)
    del graph
    return statistics.median(times)


def errors_of(
    inputs: SsdInputs, calls: Mapping[str, SsdCall], trained: Set[str]
) -> dict[str, dict[str, float]]:
    """Relative errors of the output and, of trained calls with the same operands, of gradients.

    Raises:
        JobError: An output is not that of `ssd` in float64.
    """
    exact = [x.double().requires_grad_() for x in inputs.operands]
    y = scan(*exact)
    gradients = torch.autograd.grad(y, exact, inputs.dy.double())
    y = y.detach()
    found = {}
    for name, call in calls.items():
        skip = 0.0 if call.skips else inputs.D.double().unsqueeze(-1) * inputs.x.double()
        found[name] = {"y": _error(call.forward(), y - skip)}
        if name in trained and call.skips:
            of_leaves = call.forward_and_backward()
            found[name] |= {
                f"d{operand}": _error(ours, theirs)
                for operand, ours, theirs in zip(_GRADIENTS, of_leaves, gradients, strict=True)
            }
        if not found[name]["y"] < _DIFFERENT:
            raise JobError(f"the scan by heads of {name} differs from ours: {found[name]}")
    return found


def _error(found: Tensor, expected: Tensor) -> float:
    found = found.detach().double()
    return float((found - expected).norm() / expected.norm())

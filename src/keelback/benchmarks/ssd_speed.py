"""Mamba-2's scan by heads beside its peers: time on the GPU, time per call, memory, error."""

import contextlib
import importlib.metadata
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.scan_cuda import peak_bytes
from keelback.benchmarks.scan_inputs import dtype_named
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
_COMPARED = ("torch", "transformers", "triton", "mamba-ssm", "fla-core")
_GRADIENTS = ("x", "dt", "A", "B", "C", "D", "dt_bias")
#: Relative error of the output above which a peer computes something else.
_DIFFERENT = 0.05


def versions() -> dict[str, str]:
    """Versions of what is compared, as far as it is installed."""
    found = {}
    for name in _COMPARED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def compare(
    shapes: Sequence[SsdShape],
    device: str,
    dtype: str,
    repeats: int,
    required: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Time forward, and forward with backward, of `ssd` and its peers.

    Returns:
        A row per shape and pass, with milliseconds by name: `gpu_ms`, of the kernels, from calls
        inside a CUDA graph, on a GPU only; `call_ms`, of calls that follow each other; `peak_bytes`
        of a training step beyond the operands; and `errors`, relative in the Euclidean norm,
        against `ssd` in float64. `ratios` are those of the fastest peer, or the one with the least
        memory, to ours.

    Raises:
        JobError: A peer's output is not ours, or a required peer is not installed.
    """
    peers = peers_of(device, required)
    return [
        row for shape in shapes for row in _rows(shape, device, dtype_named(dtype), repeats, peers)
    ]


def _rows(
    shape: SsdShape, device: str, dtype: torch.dtype, repeats: int, peers: Mapping[str, SsdPeer]
) -> list[dict[str, Any]]:
    inputs = make_inputs(shape, device, dtype)
    calls = {"ours": keelback(inputs), **{name: peer(inputs) for name, peer in peers.items()}}
    errors = errors_of(inputs, calls)
    peaks = {}
    if device == "cuda":
        peaks = {name: peak_bytes(call) for name, call in calls.items()}
    rows = []
    for pass_ in PASSES:
        runs = {
            name: call.forward if pass_ == "forward" else call.forward_and_backward
            for name, call in calls.items()
        }
        found: dict[str, dict[str, float]] = {}
        if device == "cuda":
            found["gpu_ms"] = {name: graph_median(run, repeats) for name, run in runs.items()}
        found["call_ms"] = interleaved_medians(runs, device, repeats, BURST)
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
        rows.append(row)
    return rows


def _ratio(values: Mapping[str, float]) -> float:
    return min(value for name, value in values.items() if name != "ours") / values["ours"]


def graph_median(run: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call on the GPU alone: some calls captured in one CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(CALLS_OF_GRAPH):
            run()
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


def errors_of(inputs: SsdInputs, calls: Mapping[str, SsdCall]) -> dict[str, dict[str, float]]:
    """Relative errors of the output and, of calls with the same operands, of the gradients.

    Raises:
        JobError: An output is not that of `ssd` in float64.
    """
    exact = [x.double().requires_grad_() for x in inputs.operands]
    y = scan(*exact)
    gradients = torch.autograd.grad(y, exact, inputs.dy.double())
    y = y.detach()
    found = {}
    for name, call in calls.items():
        leaves = [leaf.detach().requires_grad_() for leaf in call.leaves]
        output = call.run(*leaves)
        if not call.skips:
            unskipped = y - inputs.D.double().unsqueeze(-1) * inputs.x.double()
            found[name] = {"y": _error(output, unskipped)}
        else:
            of_leaves = torch.autograd.grad(output, leaves, call.dy)
            found[name] = {"y": _error(output, y)} | {
                f"d{operand}": _error(ours, theirs)
                for operand, ours, theirs in zip(_GRADIENTS, of_leaves, gradients, strict=True)
            }
        if not found[name]["y"] < _DIFFERENT:
            raise JobError(f"the scan by heads of {name} differs from ours: {found[name]}")
    return found


def _error(found: Tensor, expected: Tensor) -> float:
    found = found.detach().double()
    return float((found - expected).norm() / expected.norm())

"""The causal convolution with bias and SiLU beside PyTorch's, and causal-conv1d's if installed."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.benchmarks.benchmark import Benchmark, Group
from keelback.benchmarks.scan_cuda import medians
from keelback.benchmarks.scan_inputs import dtype_named
from keelback.benchmarks.scan_speed import versions
from keelback.benchmarks.timing import interleaved_medians
from keelback.conv import causal_conv1d
from keelback.errors import InputError, JobError

Conv = Callable[[Tensor, Tensor, Tensor], Tensor]

#: batch, length, channels: of a Mamba of width 768, and of small models on many sequences.
SHAPES = {
    "cpu": [(1, 512, 1536), (64, 250, 128), (256, 500, 16)],
    "cuda": [(8, 2048, 1536), (1, 32768, 1536), (256, 500, 16)],
}
PASSES = ("forward", "forward+backward")


def _ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = causal_conv1d(x, weight, bias, "silu")
    assert isinstance(y, Tensor)
    return y


def _torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As in transformers, whose x is a transposed projection."""
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    width, channels = weight.shape[1], x.shape[2]
    y = F.conv1d(x.mT, weight.unsqueeze(1), bias, padding=width - 1, groups=channels)
    return F.silu(y[..., : x.shape[1]]).mT


def _peers(device: str) -> dict[str, Conv]:
    if device == "cpu":
        return {"torch": _torch}
    try:
        from causal_conv1d import causal_conv1d_fn as theirs
    except ImportError:
        return {"torch": _torch}
    return {
        "torch": _torch,
        "causal_conv1d": lambda x, w, b: (
            theirs(x.mT, w.to(x.dtype), b.to(x.dtype), activation="silu").mT
        ),
    }


def benchmark(
    shapes: Sequence[tuple[int, ...]], device: str, dtype: str, repeats: int, width: int = 4
) -> Benchmark:
    """Time forward, and forward with backward, behind a projection to x and the gate.

    Its result has a row a shape and pass, with `ours_ms`, `peers` (milliseconds by name) and
    `ratio`. Measuring raises a JobError where a peer's output is not ours.

    Raises:
        InputError: A shape has not three sizes, or the dtype is unknown.
    """
    stored = dtype_named(dtype)
    for shape in shapes:
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"shape is {shape}; it should be batch,length,channels")
    groups = [
        Group(
            {f"{pass_} on {','.join(map(str, shape))}": pass_ for pass_ in PASSES},
            partial(_rows, shape, device, stored, repeats, width),
        )
        for shape in shapes
    ]
    return Benchmark(groups, about={"versions": versions()})


def _rows(
    shape: tuple[int, ...],
    device: str,
    stored: torch.dtype,
    repeats: int,
    width: int,
    passes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    batch, length, channels = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    projected = normal(batch, length, 2 * channels).to(stored)
    x, weight, bias = projected.chunk(2, dim=-1)[0], normal(channels, width), normal(channels)
    leaves = [leaf.detach().requires_grad_() for leaf in (x, weight, bias)]
    dy = normal(batch, length, channels).to(stored)
    ways: dict[str, Conv] = {"ours": _ours, **_peers(device)}
    _require_same(ways, leaves)
    for pass_ in passes:
        calls = {name: _call(conv, leaves, dy, pass_) for name, conv in ways.items()}
        if device == "cpu":
            times = interleaved_medians(calls, device, repeats)
        else:
            times = medians(calls, repeats)
        ours_ms = times.pop("ours")
        yield {
            "batch": batch,
            "length": length,
            "channels": channels,
            "dtype": str(stored).removeprefix("torch."),
            "pass": pass_,
            "ours_ms": ours_ms,
            "peers": times,
            "ratio": min(times.values()) / ours_ms,
        }


def _require_same(ways: dict[str, Conv], leaves: Sequence[Tensor]) -> None:
    with torch.no_grad():
        outputs = {name: conv(*leaves).double() for name, conv in ways.items()}
    ours = outputs["ours"]
    for name, y in outputs.items():
        if (y - ours).norm() > 1e-2 * ours.norm():
            raise JobError(f"the convolution of {name} differs from ours")


def _call(conv: Conv, leaves: Sequence[Tensor], dy: Tensor, pass_: str) -> Callable[[], object]:
    def forward() -> object:
        with torch.no_grad():
            return conv(*leaves)

    def forward_and_backward() -> object:
        return torch.autograd.grad(conv(*leaves), leaves, dy)

    return forward if pass_ == "forward" else forward_and_backward

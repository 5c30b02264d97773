"""What `mamba_inner` keeps for the backward pass, and its time, beside the functions one by one.

    python tools/mamba_inner.py --device cuda --out results/benchmarks/mamba_inner_h100.json

Found are the megabytes that autograd keeps besides parameters, and the median time of forward
and backward, both ways alternating.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

import result_file
from keelback.scan import _inner, mamba_inner

#: batch, length, channels, state, rank
SHAPES = {
    "cpu": [(1, 512, 1536, 16, 48), (16, 256, 128, 16, 4)],
    "cuda": [(8, 2048, 1536, 16, 48), (1, 32768, 1536, 16, 48)],
}
WAYS = {"computed again": _inner._recomputes, "kept": lambda *_: False}


def block(shape: tuple[int, ...], device: str) -> tuple[Tensor, list[Tensor], Tensor]:
    """The projection to both branches, the parameters, and a gradient of the output."""
    batch, length, channels, state, rank = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    parameters = [
        normal(channels, 4),
        normal(channels),
        normal(rank + 2 * state, channels) / channels**0.5,
        normal(channels, rank) / rank**0.5,
        -normal(channels, state).abs() - 0.1,
        normal(channels),
        normal(channels) - 3,
    ]
    branches = normal(batch, length, 2 * channels).requires_grad_()
    return branches, [p.requires_grad_() for p in parameters], normal(batch, length, channels)


def kept_megabytes(call: Callable[[], object], parameters: list[Tensor]) -> float:
    storages = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        call()
    for parameter in parameters:
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(storages.values()) / 1e6


def measured(shape: tuple[int, ...], device: str, repeats: int) -> list[dict[str, object]]:
    branches, parameters, dy = block(shape, device)

    def forward() -> Tensor:
        return mamba_inner(*branches.chunk(2, -1), *parameters)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def seconds() -> float:
        wait()
        start = time.perf_counter()
        torch.autograd.grad(forward(), [branches, *parameters], dy)
        wait()
        return time.perf_counter() - start

    kept: dict[str, float] = {}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(1 + repeats):
        for way, recomputes in WAYS.items():
            with mock.patch.object(_inner, "_recomputes", recomputes):
                kept[way] = kept_megabytes(forward, parameters)
                times[way].append(seconds())
    sizes = ", ".join(map(str, shape[:4]))
    return [
        {
            "batch, length, channels, state": sizes,
            "convolution and step sizes": way,
            "MB kept": kept[way],
            "ms forward and backward": 1e3 * statistics.median(times[way][1:]),
        }
        for way in WAYS
    ]


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", choices=SHAPES, default="cpu")
    options.add_argument("--repeats", type=int, default=15, help="timed passes; the median counts")
    result_file.add_options(options)
    return options


def main() -> None:
    given = parser().parse_args()
    record = result_file.started(given)
    shapes = SHAPES[given.device]
    rows = [row for shape in shapes for row in measured(shape, given.device, given.repeats)]
    result_file.write(given, record, {"rows": rows})


if __name__ == "__main__":
    main()

"""The scan against its peers: the same numbers, one process, interleaved."""

import importlib.metadata
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.benchmark import Benchmark, Group
from keelback.benchmarks.scan_cuda import PASSES as PASSES_ON_GPU
from keelback.benchmarks.scan_cuda import compare_on_gpu, limits
from keelback.benchmarks.scan_inputs import Inputs, ScanSize, dtype_named, make_inputs
from keelback.benchmarks.scan_peers import PEERS, Call, keelback, load_peers
from keelback.benchmarks.timing import BURST, SLOW, interleaved_medians
from keelback.device import chosen_device
from keelback.errors import InputError, JobError
from keelback.progress import tell

PASSES = {"forward": "forward", "forward+backward": "forward_and_backward"}
#: What may be compared, by the name of its distribution.
COMPARED = (
    *("keelback", "torch", "numba", "transformers", "mambapy", "triton", "mamba-ssm"),
    *("causal-conv1d", "fla-core"),
)
_PIECE = 16
"""Steps of a sequence on which a peer is tried first, before it is timed."""
_ENOUGH = 0.2
"""Seconds of a try from which the whole is estimated."""
_LONG = 2.0
"""Seconds per pass from which a peer is named beforehand."""


def versions() -> dict[str, str]:
    """Versions of what is compared, as far as it is installed."""
    found = {}
    for name in COMPARED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _near(found: Tensor, expected: Tensor) -> bool:
    expected = expected.double()
    return bool((found.double() - expected).norm() <= 1e-2 * expected.norm())


def compare(
    shape: ScanSize,
    device: str,
    dtype: str,
    repeats: int,
    required: Sequence[str] = (),
    without: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Time the scan and its peers on one shape: on a CPU forward, and forward with backward.

    Peers that are not installed or do not take the dtype are left out, except the required ones,
    and so are those of `without`. One that will take long is named on stderr before it runs.

    Returns:
        One row a pass, with `ours_ms`, `peers` (milliseconds by name) and `ratio`, the time of the
        fastest peer over ours (absent if there is no peer). On a GPU: see `compare_on_gpu`.

    Raises:
        InputError: The device, dtype or a required peer is unknown, or absent, or the repeats are
            none.
        JobError: A peer's output is not ours, or a required peer is not installed.
    """
    result = benchmark([shape], device, dtype, repeats, required, without).run()
    return list(result["rows"])


def benchmark(
    shapes: Sequence[ScanSize],
    device: str,
    dtype: str,
    repeats: int,
    required: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Benchmark:
    """`compare` over shapes, with the device and the versions.

    Raises:
        InputError: The device, dtype or a required peer is unknown.
    """
    chosen_device(device)
    stored = dtype_named(dtype)
    for name in (*required, *without):
        if name not in PEERS[device]:
            known = ", ".join(PEERS[device])
            raise InputError(f"peer is {name!r}; on {device} it should be one of {known}")
    both = sorted(set(required) & set(without))
    if both:
        raise InputError(f"peer {both[0]} is both required and left out")
    chosen = {name: peer for name, peer in PEERS[device].items() if name not in without}
    passes = tuple(PASSES) if device == "cpu" else PASSES_ON_GPU
    about = {
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    groups = [
        Group(
            {f"{pass_} on {shape}": pass_ for pass_ in passes},
            partial(_rows, shape, device, stored, repeats, chosen, required),
        )
        for shape in shapes
    ]
    return Benchmark(groups, about=about)


def _rows(
    shape: ScanSize,
    device: str,
    stored: torch.dtype,
    repeats: int,
    chosen: Mapping[str, Callable[[Inputs], Call]],
    required: Sequence[str],
    passes: Sequence[str],
) -> Iterator[dict[str, Any]]:
    dtype = str(stored).removeprefix("torch.")
    inputs = make_inputs(shape, device, stored)
    loaders = {name: partial(prepare, inputs) for name, prepare in chosen.items()}
    ours, peers = keelback(inputs), load_peers(loaders, required)
    if device == "cpu":
        _name_slow({name: chosen[name] for name in peers}, shape, dtype, repeats)
    tell(f"checking on {shape}")
    expected = ours.forward()
    for name, peer in list(peers.items()):
        try:
            found = peer.forward()
        except RuntimeError as error:
            if name in required:
                raise JobError(f"{name} does not run in {dtype}: {error}") from error
            print(f"absent: {name} (in {dtype}: {error})", file=sys.stderr)
            del peers[name]
            continue
        if not _near(found, expected):
            raise JobError(f"the output of {name} differs from ours on {shape}")
    if device == "cuda":
        calls = {"ours": ours, **peers}
        yield from compare_on_gpu(shape, inputs, calls, limits(), repeats, passes)
        return
    for pass_ in passes:
        runs = {
            name: getattr(call, PASSES[pass_]) for name, call in {"ours": ours, **peers}.items()
        }
        tell(f"{pass_} on {shape}")
        times = interleaved_medians(runs, device, repeats)
        ours_ms = times.pop("ours")
        row: dict[str, Any] = {
            **asdict(shape),
            "dtype": dtype,
            "pass": pass_,
            "ours_ms": ours_ms,
            "peers": times,
        }
        if times:
            row["ratio"] = min(times.values()) / ours_ms
        yield row


def _name_slow(
    peers: Mapping[str, Callable[[Inputs], Call]], shape: ScanSize, dtype: str, repeats: int
) -> None:
    """Say on stderr which peers will take long, going by short pieces of the sequence."""
    for name, prepare in peers.items():
        tell(f"estimating {name}")
        try:
            each = [_estimate(prepare, shape, dtype, method) for method in PASSES.values()]
        except RuntimeError:
            continue  # It does not take the dtype, which is said where it is compared.
        # One call to compare outputs; of each pass one to warm up, one alone and, unless that one
        # was slow, the repeats.
        total = each[0] + sum(s * 2 if s > SLOW else 2 * s + repeats * max(s, BURST) for s in each)
        if max(each) > _LONG:
            print(
                f"slow: {name} takes about {max(each):.0f} s per pass on {shape}, about "
                f"{total:.0f} s in all; --without {name} leaves it out",
                file=sys.stderr,
                flush=True,
            )


def _estimate(prepare: Callable[[Inputs], Call], shape: ScanSize, dtype: str, method: str) -> float:
    """Seconds of a call, from pieces of doubling length until one takes long enough to tell."""
    length, before = min(_PIECE, shape.length), 0.0
    getattr(
        prepare(make_inputs(replace(shape, length=length), "cpu", dtype_named(dtype))), method
    )()
    while True:
        call = prepare(make_inputs(replace(shape, length=length), "cpu", dtype_named(dtype)))
        start = time.perf_counter()
        getattr(call, method)()
        seconds = time.perf_counter() - start
        if length == shape.length:
            return seconds
        if seconds >= _ENOUGH:
            growth = math.log2(seconds / before) if before else 1.0
            return float(seconds * (shape.length / length) ** min(2.0, max(1.0, growth)))
        length, before = min(2 * length, shape.length), seconds

"""The scan against its peers: the same numbers, one process, interleaved."""

import importlib.metadata
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from keelback.benchmarks.scan_cuda import compare_on_gpu, limits
from keelback.benchmarks.scan_inputs import ScanSize, dtype_named, make_inputs
from keelback.benchmarks.scan_peers import PEERS, keelback, load_peers
from keelback.benchmarks.timing import interleaved_medians
from keelback.device import chosen_device
from keelback.errors import InputError, JobError

PASSES = ("forward", "forward+backward")


def versions() -> dict[str, str]:
    """Versions of what is compared, as far as it is installed."""
    found = {}
    for name in ("keelback", "torch", "numba", "transformers", "mambapy", "mamba-ssm"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _near(found: Tensor, expected: Tensor) -> bool:
    expected = expected.double()
    return bool((found.double() - expected).norm() <= 1e-2 * expected.norm())


def compare(
    shape: ScanSize, device: str, dtype: str, repeats: int, required: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Time the scan and its peers on one shape: on a CPU forward, and forward with backward.

    Peers that are not installed or do not take the dtype are left out, except the required ones.

    Returns:
        One row a pass, with `ours_ms`, `peers` (milliseconds by name) and `ratio`, the time of the
        fastest peer over ours (absent if there is no peer). On a GPU: see `compare_on_gpu`.

    Raises:
        InputError: The device, dtype or a required peer is unknown, or absent, or the repeats are
            none.
        JobError: A peer's output is not ours, or a required peer is not installed.
    """
    chosen_device(device)
    for name in required:
        if name not in PEERS[device]:
            known = ", ".join(PEERS[device])
            raise InputError(f"peer is {name!r}; on {device} it should be one of {known}")
    inputs = make_inputs(shape, device, dtype_named(dtype))
    loaders = {name: partial(prepare, inputs) for name, prepare in PEERS[device].items()}
    ours, peers = keelback(inputs), load_peers(loaders, required)
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
        return compare_on_gpu(shape, inputs, {"ours": ours, **peers}, limits(), repeats)
    rows = []
    for pass_ in PASSES:
        method = "forward" if pass_ == "forward" else "forward_and_backward"
        calls = {name: getattr(call, method) for name, call in {"ours": ours, **peers}.items()}
        times = interleaved_medians(calls, device, repeats)
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
        rows.append(row)
    return rows


def summary(
    shapes: Sequence[ScanSize], device: str, dtype: str, repeats: int, required: Sequence[str] = ()
) -> dict[str, Any]:
    """`compare` over shapes, with the device and the versions."""
    rows = [row for shape in shapes for row in compare(shape, device, dtype, repeats, required)]
    name = "cpu" if device == "cpu" else torch.cuda.get_device_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "rows": rows,
    }

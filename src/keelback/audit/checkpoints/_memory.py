"""Whether a model's weights fit in memory."""

import errno
import resource
from pathlib import Path

import torch

from keelback.audit.checkpoints._files import WeightFiles

_SHARE = 0.7
"""Of what is free, the part that weights may take; the rest is for running the model."""


def fits_in_memory(weights: WeightFiles, dtype: torch.dtype | None, device: torch.device) -> bool:
    """Whether the weights, as floats of `dtype`, leave room to run the model.

    Counts what the machine has free, the limits of this process (`ulimit -v`, a cgroup), and what
    the device has free. While it is loaded, the model is beside the largest file.
    """
    needed = sum(_bytes(tensor.shape, tensor.dtype, dtype) for tensor in weights.tensors.values())
    largest = max((file.stat().st_size for file in weights.files), default=0)
    # All files are mapped at once while transformers loads them, which counts for `ulimit -v`.
    if needed + weights.bytes > _address_space_left() * _SHARE:
        return False
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return needed <= free * _SHARE and largest <= _memory_left() * _SHARE
    return needed + largest <= _memory_left() * _SHARE


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it came of, says that memory could not be had.

    PyTorch, safetensors and the threads that transformers loads with each say so in a way of
    their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return True
        if any(words in str(cause).lower() for words in _OUT_OF_MEMORY):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


_OUT_OF_MEMORY = ("allocate memory", "out of memory", "os error 12", "start new thread")


def _bytes(shape: tuple[int, ...], stored: torch.dtype | None, dtype: torch.dtype | None) -> int:
    size = 1
    for entry in shape:
        size *= entry
    if dtype is not None and (stored is None or stored.is_floating_point):
        return size * dtype.itemsize
    return size * (1 if stored is None else stored.itemsize)


def _address_space_left() -> float:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[0]) if statm.is_file() else 0
    return limit - pages * resource.getpagesize()


def _memory_left() -> float:
    """Bytes that the machine, or the cgroup that this process is in, has free."""
    left = float("inf")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                left = int(line.split()[1]) * 1024
    return min(left, _cgroup_left())


def _cgroup_left() -> float:
    """Bytes up to the limit of this process's cgroup; what it keeps of files counts as free."""
    folder = Path("/sys/fs/cgroup")
    limit, used, stat = (folder / f"memory.{name}" for name in ("max", "current", "stat"))
    if not limit.is_file() or not (most := limit.read_text().strip()).isdigit():
        return float("inf")
    cached = 0
    for line in stat.read_text().splitlines() if stat.is_file() else ():
        if line.startswith("inactive_file "):
            cached = int(line.split()[1])
    return int(most) - int(used.read_text()) + cached

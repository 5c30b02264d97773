"""Scratch memory for kernels on the CPU."""

import threading
from typing import Any

import numpy as np
import torch

_kept = threading.local()
#: Scratch beyond this many floats, which only the largest states need, is not kept between calls.
_KEPT_FLOATS = 1 << 18


def aligned_scratch(size: int, dtype: torch.dtype) -> Any:
    """An uninitialised flat array that starts on a cache line."""
    scalar = np.float64 if dtype == torch.float64 else np.float32
    line = 64 // np.dtype(scalar).itemsize
    buffer = np.empty(size + line, scalar)
    start = (-buffer.ctypes.data % 64) // buffer.itemsize
    return buffer[start : start + size]


def kept_scratch(size: int, dtype: torch.dtype) -> Any:
    """Aligned scratch of at least `size` floats that this thread keeps for its next call."""
    scratch = getattr(_kept, "double" if dtype == torch.float64 else "single", None)
    if scratch is None or scratch.size < size:
        scratch = aligned_scratch(size, dtype)
        if size <= _KEPT_FLOATS:
            setattr(_kept, "double" if dtype == torch.float64 else "single", scratch)
    return scratch

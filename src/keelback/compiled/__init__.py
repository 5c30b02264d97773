"""What compiled kernels share: Numba on the CPU, NVRTC on NVIDIA GPUs, threads, transforms."""

import os

from keelback.errors import InputError

LANES = 16
"""Floats of a vector; LLVM splits it where registers are narrower."""


def _require_settings() -> None:
    """Say it before Numba does, whose import fails with a traceback."""
    text = os.environ.get("NUMBA_NUM_THREADS", "").strip()
    if text.lstrip("-").isdecimal() and int(text) < 1:
        raise InputError(
            f"NUMBA_NUM_THREADS is {text!r} in the environment; it should be 1 or more, or not set"
        )


_require_settings()

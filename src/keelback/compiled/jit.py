"""How the kernels are compiled: at their first call, without the GIL, cached on disk."""

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a part of a kernel, which only other compiled functions call."""
    njit: Any = numba.njit  # Its type information lacks the last two options.
    return njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(
        function
    )


def entry_kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel that Python calls.

    The machine code is cached beside the package, or in the user's cache directory where the
    package is read-only, or (neither being writable) not at all.
    """
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # Numba found no place for its cache.
        return numba.njit(nogil=True, error_model="numpy")(function)

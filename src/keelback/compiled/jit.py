"""How the kernels are compiled: at their first call, without the GIL, cached on disk."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numba
from numba.core import config as numba_config

from keelback.compiled.kernel_cache import KernelCache
from keelback.errors import InputError

_settings: Any = numba_config


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a part of a kernel, which only other compiled functions call."""
    njit: Any = numba.njit  # Its type information lacks the last two options.
    return njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(
        function
    )


def entry_kernel(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a kernel that Python calls; `options` are Numba's.

    The machine code is cached beside the package, or in the user's cache directory where the
    package is read-only, or (neither being writable) not at all. `KernelCache` says when it is
    compiled again.
    """
    if _settings.DISABLE_JIT:
        return _refused(function)
    njit: Any = numba.njit
    compiled = njit(**{"nogil": True, "error_model": "numpy", **options})(function)
    try:
        compiled._cache = KernelCache(function)
    except (RuntimeError, OSError):  # Numba found no place for its cache.
        return compiled
    return compiled


def _refused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Stands for a kernel where Numba must not compile: made of vectors, it is nothing else."""

    @wraps(function)
    def refuse(*arguments: Any) -> Any:
        raise InputError(
            "NUMBA_DISABLE_JIT is set in the environment, and keelback's CPU kernels are nothing "
            "but compiled code: unset it (a scan or convolution with backend='reference' needs no "
            "kernel)"
        )

    return refuse

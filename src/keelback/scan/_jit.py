"""How the kernels are compiled: at their first call, without the GIL, cached on disk."""

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Compile `function` at its first call; `options` are further ones of `numba.njit`.

    The machine code is cached beside the package, or in the user's cache directory where the
    package is read-only, or (neither being writable) not at all.
    """
    if function is None:
        return lambda function: kernel(function, **options)
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    except RuntimeError:  # Numba found no place for its cache.
        return numba.njit(nogil=True, error_model="numpy", **options)(function)

"""The CPU backend: Numba kernels, compiled at their first call."""

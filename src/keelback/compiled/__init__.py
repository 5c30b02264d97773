"""What compiled kernels share: Numba on the CPU, NVRTC on NVIDIA GPUs, threads, transforms."""

LANES = 16
"""Floats of a vector; LLVM splits it where registers are narrower."""

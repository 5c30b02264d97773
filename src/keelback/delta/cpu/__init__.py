"""The CPU backend of the delta rule: outputs in float32 by compiled kernels.

Gradients, and float64, are computed by chunks of PyTorch's products.
"""

from keelback.delta.cpu.launch import CpuStep, prepare, prepare_step

#: Half precision is widened before the kernels see it.
WIDENS = False

__all__ = ["WIDENS", "CpuStep", "prepare", "prepare_step"]

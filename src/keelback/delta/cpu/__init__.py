"""The CPU backend of the delta rule: float32 by compiled kernels.

float64 is computed by chunks of PyTorch's products.
"""

from keelback.delta.cpu.launch import CpuStep, by_kernels, prepare, prepare_step
from keelback.delta.cpu.segments import kept_shapes

#: Half precision is widened before the kernels see it.
WIDENS = False

__all__ = ["WIDENS", "CpuStep", "by_kernels", "kept_shapes", "prepare", "prepare_step"]

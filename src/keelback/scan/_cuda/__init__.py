"""The NVIDIA GPU backend: CUDA C++ compiled at run time by the NVRTC that PyTorch brings along."""

from keelback.scan._cuda.operator import scan_backward, scan_forward

__all__ = ["scan_backward", "scan_forward"]

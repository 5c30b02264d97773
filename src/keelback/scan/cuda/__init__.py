"""The NVIDIA GPU backend: CUDA C++ compiled at run time by the NVRTC that PyTorch brings along."""

from keelback.scan.cuda.operator import scan_backward, scan_forward
from keelback.scan.cuda.step import advance_state

__all__ = ["advance_state", "scan_backward", "scan_forward"]

"""The NVIDIA GPU backend of the scan by heads: CUDA C++ on the matrix units, compiled by NVRTC."""

from keelback.ssd.cuda.operator import has_kernels, ssd_backward, ssd_forward

__all__ = ["has_kernels", "ssd_backward", "ssd_forward"]

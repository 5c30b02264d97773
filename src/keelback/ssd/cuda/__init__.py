"""The NVIDIA GPU backend of the scan by heads: CUDA C++ on the matrix units, compiled by NVRTC."""

from keelback.ssd.cuda.launch import prepare
from keelback.ssd.cuda.step import CudaStep, prepare_step

#: Half precision is read by the kernels, which compute in float32.
WIDENS = True

__all__ = ["WIDENS", "CudaStep", "prepare", "prepare_step"]

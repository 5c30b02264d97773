"""The NVIDIA GPU backend of the delta rule: CUDA C++ on the matrix units, compiled by NVRTC."""

from keelback.delta.cuda.launch import prepare
from keelback.delta.cuda.step import CudaStep, prepare_step

#: Half precision is read by the kernels, which compute in float32.
WIDENS = True

__all__ = ["WIDENS", "CudaStep", "prepare", "prepare_step"]

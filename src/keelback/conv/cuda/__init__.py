"""The causal convolution on NVIDIA GPUs."""

from keelback.conv.cuda.launch import prepare
from keelback.conv.cuda.step import CudaConvStep, prepare_step

#: Half precision is read by the kernels, which compute in float32.
WIDENS = True

__all__ = ["WIDENS", "CudaConvStep", "prepare", "prepare_step"]

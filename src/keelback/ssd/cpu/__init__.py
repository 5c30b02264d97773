"""The CPU backend of the scan by heads: matrix products over chunks, by PyTorch's BLAS."""

from keelback.ssd.cpu.launch import prepare
from keelback.ssd.cpu.step import CpuStep, prepare_step

#: Half precision is widened before the products see it.
WIDENS = False

__all__ = ["WIDENS", "CpuStep", "prepare", "prepare_step"]

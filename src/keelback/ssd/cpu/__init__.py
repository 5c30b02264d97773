"""The CPU backend of the scan by heads: matrix products over chunks, by PyTorch's BLAS."""

from keelback.ssd.cpu.launch import prepare

#: Half precision is widened before the products see it.
WIDENS = False

__all__ = ["WIDENS", "prepare"]

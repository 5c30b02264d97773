"""The CPU backend: Numba kernels, compiled at their first call."""

from keelback.scan.cpu.across import BackwardPart, ForwardPart
from keelback.scan.cpu.launch import prepare
from keelback.scan.cpu.step import prepare_step

#: Half precision is widened before the kernels see it.
WIDENS = False

__all__ = ["WIDENS", "BackwardPart", "ForwardPart", "prepare", "prepare_step"]

"""The gated norm on the CPU."""

from keelback.norm.cpu.launch import prepare

#: Half precision is not for the kernels.
WIDENS = False

__all__ = ["WIDENS", "prepare"]

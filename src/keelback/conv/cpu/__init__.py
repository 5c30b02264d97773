"""The causal convolution on the CPU."""

from keelback.conv.cpu.launch import prepare

#: Half precision is widened before the kernels see it.
WIDENS = False

__all__ = ["WIDENS", "prepare"]

"""The gated norm on NVIDIA GPUs."""

from keelback.norm.cuda.launch import prepare

#: Half precision is read by the kernels, which compute in float32.
WIDENS = True

__all__ = ["WIDENS", "prepare"]

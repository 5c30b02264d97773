"""The NVIDIA GPU backend: CUDA C++ compiled at run time by the NVRTC that PyTorch brings along."""

from keelback.scan.cuda.across import BackwardPart, ForwardPart
from keelback.scan.cuda.launch import prepare
from keelback.scan.cuda.step import prepare_step

#: Half precision is read by the kernels, which compute in float32.
WIDENS = True

__all__ = ["WIDENS", "BackwardPart", "ForwardPart", "prepare", "prepare_step"]

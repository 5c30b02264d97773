"""The NVIDIA GPU backend: CUDA C++ compiled at run time by the NVRTC that PyTorch brings along."""

from keelback.scan.cuda.across import BackwardPart, ForwardPart
from keelback.scan.cuda.launch import prepare
from keelback.scan.cuda.step import advance_state

#: Half precision is read by the kernels, which compute in float32.
WIDENS = True

__all__ = ["WIDENS", "BackwardPart", "ForwardPart", "advance_state", "prepare"]

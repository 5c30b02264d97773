"""The cases that kernels are compiled for lie with the tests of their operators."""

import sys
from pathlib import Path

for _room in ("scan_cuda", "ssd", "delta", "norm"):
    sys.path.insert(0, str(Path(__file__).parents[1] / _room))

"""The kernels' stand-in for the host lies with the tests of the scan's kernels."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scan_cuda"))

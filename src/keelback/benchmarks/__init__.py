"""Speed and memory against peers, side by side in one process."""

from keelback._moved import moved
from keelback.benchmarks.scan_cost import memory_ratio, scaling
from keelback.benchmarks.scan_inputs import ScanSize, default_shapes
from keelback.benchmarks.scan_speed import compare, versions

__all__ = ["ScanSize", "compare", "default_shapes", "memory_ratio", "scaling", "versions"]

__getattr__ = moved(__name__, {"Shape": "keelback.benchmarks:ScanSize"})

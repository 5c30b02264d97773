"""Speed and memory against peers, side by side in one process."""

from keelback.benchmarks.scan_cost import memory_ratio, scaling
from keelback.benchmarks.scan_inputs import Shape, default_shapes
from keelback.benchmarks.scan_speed import compare, versions

__all__ = ["Shape", "compare", "default_shapes", "memory_ratio", "scaling", "versions"]

"""The delta rule in chunks of matrix products: PyTorch's operations, for any device and dtype.

This is no kernel: each operation is a launch of its own, and what lies between them goes through
memory.
"""

from keelback.delta.chunked.call import prepare

#: Half precision is widened before the products see it.
WIDENS = False

__all__ = ["WIDENS", "prepare"]

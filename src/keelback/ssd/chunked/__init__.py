"""The scan by heads in chunks of matrix products: plain PyTorch, for any device and dtype."""

from keelback.ssd.chunked.call import ChunkedSsd

__all__ = ["ChunkedSsd"]

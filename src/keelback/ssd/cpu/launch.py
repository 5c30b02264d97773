"""The CPU backend: prepares the scans of one signature."""

from functools import lru_cache
from typing import Any

from keelback.compiled.backends import Prepared
from keelback.compiled.layouts import Signature, layouts_of
from keelback.ssd._operands import Operands
from keelback.ssd._replicas import Replicated
from keelback.ssd.chunked import ChunkedSsd

_AXES = 4  # of x without replicas


@lru_cache(maxsize=1024)
def prepare(signature: Signature, options: tuple[Any, ...]) -> Prepared:
    """The scans of operands with this signature, with softplus or without, and limits."""
    given: Any = Operands(*layouts_of(signature))
    if len(given.x.shape) > _AXES:
        return Replicated(given, options, prepare)
    return ChunkedSsd(given, options)

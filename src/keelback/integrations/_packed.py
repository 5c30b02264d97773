"""Several sequences packed into one: a scan is told as `reset`, however its model is told."""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from keelback.errors import InputError

Reset = Bool[Tensor, "batch length"]
"""True where a new sequence starts."""

_BOUNDS = ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k")


class _Now(threading.local):
    """How the batch is packed that a model is running on, in this thread."""

    reset: Reset | None = None


_now = _Now()


def reset_of(options: Mapping[str, Any], batch: int, length: int) -> Reset | None:
    """Where sequences begin, from what a layer's kernel was told or else from the model's call.

    `seq_idx` is the number of each token's sequence, `(batch, length)`; `cu_seqlens` (also under
    the names of transformers, `cu_seq_lens_q` and `cu_seq_lens_k`) are the bounds of the sequences
    in a batch of one.

    Raises:
        InputError: they do not fit the layer's input, as where packed sequences go on from a cache.
    """
    given = _told(options, length)
    reset = _now.reset if given is None else given
    if reset is None or not bool(reset[:, 1:].any()):
        return None
    if reset.shape != (batch, length):
        raise InputError(
            f"the packed sequences make up {tuple(reset.shape)} tokens and the layer is given "
            f"({batch}, {length}); packed sequences cannot go on from a cache"
        )
    return reset


def _told(options: Mapping[str, Any], length: int) -> Reset | None:
    numbers = options.get("seq_idx")
    if isinstance(numbers, Tensor):
        return _begins(numbers[:, 1:] != numbers[:, :-1])
    for name in _BOUNDS:
        bounds = options.get(name)
        if isinstance(bounds, Tensor):
            return _at(bounds, length, name)
    return None


def _at(bounds: Tensor, length: int, name: str) -> Reset:
    ends_well = bounds.ndim == 1 and int(bounds[0]) == 0 and int(bounds[-1]) == length
    if not ends_well or bool((bounds[1:] < bounds[:-1]).any()):
        raise InputError(
            f"{name} must rise from 0 to the {length} tokens of a batch of one; "
            f"it is {bounds.tolist()}"
        )
    reset = torch.zeros(1, length, dtype=torch.bool, device=bounds.device)
    reset[0, bounds[:-1][bounds[:-1] < length].long()] = True
    return reset


def _begins(changes: Bool[Tensor, "batch length_minus_one"]) -> Reset:
    first = (
        torch.ones_like(changes[:, :1]) if changes.shape[1] else changes.new_ones(len(changes), 1)
    )
    return torch.cat([first, changes], dim=1)


def packing_of_call(given: Mapping[str, Any]) -> Reset | None:
    """Where sequences begin in the batch that a model is called with; `None` if nothing says.

    Besides the names above, `position_ids` that do not count on, as those of
    `DataCollatorWithFlattening`.
    """
    ids = next(
        (given[n] for n in ("input_ids", "inputs_embeds") if isinstance(given.get(n), Tensor)), None
    )
    if ids is None or ids.ndim < 2:
        return None
    told = _told(given, ids.shape[1])
    positions = given.get("position_ids")
    if told is None and isinstance(positions, Tensor) and positions.ndim == 2:
        told = _begins(positions[:, 1:] != positions[:, :-1] + 1)
        told = told.expand(len(ids), -1) if told.shape[1] == ids.shape[1] else None
    return told if told is not None and bool(told[:, 1:].any()) else None


@contextmanager
def packed_as(reset: Reset | None) -> Iterator[None]:
    """Within the block, layers whose kernels are told nothing else take the batch as packed so."""
    before, _now.reset = _now.reset, reset
    try:
        yield
    finally:
        _now.reset = before


def packing_now() -> Reset | None:
    """How the batch is packed that a model is running on."""
    return _now.reset


def telling_of_packing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A model's `forward` that lets its layers know how its batch is packed."""
    signature = inspect.signature(forward)

    @wraps(forward)
    def told(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(signature.parameters, args, strict=False)) | kwargs
        reset = packing_of_call(given)
        if reset is None:
            return forward(*args, **kwargs)
        with packed_as(reset):
            return forward(*args, **kwargs)

    return told

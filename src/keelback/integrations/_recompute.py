"""Gradient checkpointing: a layer that is run again for its gradients runs as it ran at first.

Between the two runs `use_in_transformers()` may have been left, and the batch that the model runs
on may be another. What a layer ran with is therefore kept with the frame that PyTorch keeps of a
checkpointed call (`torch.utils.checkpoint` with `use_reentrant=False`).
"""

from collections.abc import Callable
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch

from keelback.errors import InputError
from keelback.integrations._packed import Reset, packed_as, packing_now

_kept: "WeakKeyDictionary[Any, Reset | None]" = WeakKeyDictionary()
"""Frames of calls that ran with keelback's functions, and how their batch was packed."""


def _frame() -> tuple[Any, bool]:
    """The innermost checkpointed call, and whether it is being run again; `None` outside of any."""
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)
    pack = None if top is None else top[0]
    function = getattr(pack, "__wrapped__", pack)
    cells = dict(
        zip(
            getattr(getattr(function, "__code__", None), "co_freevars", ()),
            getattr(function, "__closure__", None) or (),
            strict=True,
        )
    )
    if "target_frame_ref" in cells:
        return cells["target_frame_ref"].cell_contents(), True
    if "frame" in cells:
        return cells["frame"].cell_contents, False
    return None, False


class ours_or_theirs:  # noqa: N801 - it makes functions, and is used as one
    """keelback's function in the place of another.

    When PyTorch runs a checkpointed call again, it is whichever of the two that call ran with.
    `late` is the other's function with the same memory, for when keelback's was taken away.
    """

    def __init__(self, ours: Callable[..., Any], theirs: Callable[..., Any]) -> None:
        self.theirs = getattr(theirs, "_keelback_theirs", theirs)
        self.now = self._made(ours, by_default=ours)
        self.late = self._made(ours, by_default=self.theirs)

    def _made(self, ours: Callable[..., Any], by_default: Callable[..., Any]) -> Any:
        theirs = self.theirs

        @wraps(by_default)
        def chosen(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return by_default(*args, **kwargs)
            frame, again = _frame()
            if frame is None:
                _refuse_to_forget()
                return by_default(*args, **kwargs)
            if not again:
                if by_default is ours:
                    _kept[frame] = packing_now()
                return by_default(*args, **kwargs)
            if frame not in _kept:
                return theirs(*args, **kwargs)
            with packed_as(_kept[frame]):
                return ours(*args, **kwargs)

        chosen._keelback_theirs = theirs  # type: ignore[attr-defined]
        chosen._keelback_is_ours = by_default is ours  # type: ignore[attr-defined]
        return chosen


def is_ours(function: Any) -> bool:
    """Whether keelback's function is in the place of this one, put there by an earlier call."""
    return bool(getattr(function, "_keelback_is_ours", False))


class _LastRun:
    """Whether the last call outside of a backward pass and of any frame was packed."""

    was_packed = False


def _refuse_to_forget() -> None:
    """Refuse to run a packed batch again as one sequence.

    A checkpointed call with `use_reentrant=True` leaves nothing to keep its packing with.

    Raises:
        InputError: in the backward pass of a packed batch.
    """
    if torch._C._current_graph_task_id() == -1:
        _LastRun.was_packed = packing_now() is not None
    elif _LastRun.was_packed and packing_now() is None:
        raise InputError(
            "a packed batch is run again by a checkpoint with use_reentrant=True, which cannot "
            "tell how it was packed; call gradient_checkpointing_enable({'use_reentrant': False})"
        )


def is_waited_for() -> bool:
    """Whether a checkpointed call that ran with keelback's functions may be run again."""
    return len(_kept) > 0

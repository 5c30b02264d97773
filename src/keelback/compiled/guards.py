"""Whether a call's tensors are like those of an earlier one, told by one call of PyTorch's code."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

#: PyTorch up to here has guards that were tried: they are its compiler's own, not a public name.
NEWEST = (2, 14)


def _guards_of_pytorch() -> Any:
    """PyTorch's guards over several tensors; None where they are not known to be as they were."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version > NEWEST:
        return None
    try:
        from torch._C._dynamo import guards
    except ImportError:
        return None
    return getattr(guards, "TensorGuards", None)


_GUARDS: Any = _guards_of_pytorch()

T = TypeVar("T")
#: Plans that are found again, of the same options and absent operands, and kinds of these.
_PLANS, _KINDS = 8, 1024


def guard_over(operands: Sequence[Tensor | None]) -> Callable[..., bool]:
    """Tells of other tensors whether they are like these, where none is absent; keeps none of them.

    Like are types, shapes, strides, dtypes, devices, whether gradients are required, and dispatch
    keys, with those that the thread adds: transforms and inference mode are told too. Modes, traces
    and forward mode are not: ask `is_unwatched` first. With a newer PyTorch than those tried
    nothing is like anything, and nothing is like operands of which two are one object.
    """
    if _GUARDS is None:
        return none_fit
    present = [x for x in operands if x is not None]
    guards = _GUARDS(
        *present,
        dynamic_dims_sizes=[list(x.shape) for x in present],
        dynamic_dims_strides=[list(x.stride()) for x in present],
    )
    check: Callable[..., bool] = guards.check
    return check


def none_fit(*tensors: Tensor) -> bool:
    """For calls that nobody remembers."""
    return False


class Recent(Generic[T]):
    """What was planned for the last calls, found again for operands like theirs."""

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[tuple[Callable[..., bool], T], ...]] = {}

    def find(self, options: Any, operands: Sequence[Tensor | None]) -> T | None:
        """What was added for such options and operands, unless others came in between."""
        kept = self._kept.get((options, *[x is None for x in operands]))
        if kept is not None:
            present = [x for x in operands if x is not None]
            for fits, planned in kept:
                if fits(*present):
                    return planned
        return None

    def add(
        self,
        options: Any,
        operands: Sequence[Tensor | None],
        fits: Callable[..., bool],
        planned: T,
    ) -> None:
        """Keep what was planned for these operands, whose guard is `fits`, if it can tell them."""
        if not fits(*[x for x in operands if x is not None]):
            return
        key = (options, *[x is None for x in operands])
        before = self._kept.get(key, ())
        if len(self._kept) >= _KINDS:
            self._kept.clear()
        self._kept[key] = ((fits, planned), *before[: _PLANS - 1])

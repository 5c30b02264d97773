"""How rows lie in memory: up to three axes, to which those of a call are joined."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from keelback.compiled.cuda_operands import layout_of
from keelback.compiled.layouts import Layout
from keelback.norm._operands import NormOperands

_AXES = 3


class Walk(NamedTuple):
    """Rows of several tensors, row r of each at the indices that (outer, middle, inner) make of r.

    `strides` are those of (replica, outer, middle, inner) of each tensor, in elements. Where
    `copied` is set, they are those of a contiguous copy.
    """

    replicas: int
    rows: int
    middle: int
    inner: int
    strides: tuple[tuple[int, int, int, int], ...]
    copied: tuple[bool, ...]

    @property
    def is_one_axis(self) -> bool:
        """Whether all rows of a replica are the same step apart."""
        return self.rows <= self.inner


class Walks:
    """The walks of one signature: over x and the gate, and over a gradient of the output as well.

    x stands for a gate that is not there.
    """

    def __init__(self, given: NormOperands[Layout]) -> None:
        x, gate, weight = given
        self._layouts = (x, x if gate is None else gate)
        self.replicated = weight is not None and len(weight.shape) > 1
        self._forward = walk_over(self._layouts, self.replicated)
        self._backward: dict[Any, Walk] = {}

    def forward(self) -> Walk:
        """Over x and the gate."""
        return self._forward

    def backward(self, dy: Tensor) -> Walk:
        """Over x, the gate and dy."""
        key = dy.stride()
        found = self._backward.get(key)
        if found is None:
            layouts = (*self._layouts, layout_of(dy))
            found = self._backward[key] = walk_over(layouts, self.replicated)
        return found


def walk_over(layouts: Sequence[Layout], replicated: bool) -> Walk:
    """The walk over tensors of one shape, whose channels are adjacent or else copied.

    Args:
        layouts: What is known of the tensors.
        replicated: Whether their first axis is that of replicas, which have weights of their own.
    """
    copied = [not one.adjacent for one in layouts]
    while True:
        lying = [
            one.in_row_major_order() if copy else one
            for one, copy in zip(layouts, copied, strict=True)
        ]
        sizes, strides = _joined(lying, int(replicated))
        if len(sizes) <= _AXES:
            break
        copied = [True] * len(layouts)
    missing = [0] * (_AXES - len(sizes))
    outer, middle, inner = [1] * len(missing) + sizes
    whole: list[Any] = [
        (one.stride[0] if replicated else 0, *missing, *steps)
        for one, steps in zip(lying, strides, strict=True)
    ]
    replicas, rows = layouts[0].shape[0] if replicated else 1, outer * middle * inner
    return Walk(replicas, rows, middle, inner, tuple(whole), tuple(copied))


def _joined(layouts: Sequence[Layout], first: int) -> tuple[list[int], list[list[int]]]:
    """Sizes and strides of the axes from `first` to the last but one, joined where all step on."""
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in layouts]
    for axis in range(first, len(layouts[0].shape) - 1):
        size = layouts[0].shape[axis]
        if size == 1:
            continue
        steps = [one.stride[axis] for one in layouts]
        if sizes and all(
            of_last[-1] == step * size for of_last, step in zip(strides, steps, strict=True)
        ):
            sizes[-1] *= size
            for of_last, step in zip(strides, steps, strict=True):
                of_last[-1] = step
        else:
            sizes.append(size)
            for of_last, step in zip(strides, steps, strict=True):
                of_last.append(step)
    return sizes, strides

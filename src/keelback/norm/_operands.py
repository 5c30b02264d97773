"""The operands and options of a gated norm, in one record each."""

from typing import Any, Generic, NamedTuple, TypeVar

import torch

from keelback.compiled.checks import require_shape
from keelback.errors import InputError
from keelback.norm.reference import GATES

T = TypeVar("T")


class NormOperands(NamedTuple, Generic[T]):
    """What a norm is given: tensors, or what is known of them; the gate and the weight may lack.

    The same record serves for their gradients. Kernels see an axis of replicas before all others,
    or none for a single one.
    """

    x: T
    gate: T | None
    weight: T | None


class NormOptions(NamedTuple):
    """The options of the operator, in the order of its schema; `group_size` 0 is all channels."""

    epsilon: float
    group_size: int
    norm_before_gate: bool
    sigmoid: bool
    rounded: bool
    promoted: bool

    def group_of(self, channels: int) -> int:
        """Channels of a group."""
        return self.group_size or channels


OPTIONS = tuple(
    name if kind is bool else f"{kind.__name__} {name}"
    for name, kind in NormOptions.__annotations__.items()
)
"""As a schema of an operator has them."""


def output_dtype(given: NormOperands[Any], options: NormOptions) -> torch.dtype:
    """That of x, or of the product of x and the weight."""
    own: torch.dtype = given.x.dtype
    if options.promoted and given.weight is not None:
        return torch.promote_types(own, given.weight.dtype)
    return own


def require_norm(given: NormOperands[Any]) -> None:
    """Raise unless gate and weight have the shapes that x asks for."""
    shape = given.x.shape
    if len(shape) == 0 or shape[-1] == 0:
        raise InputError(f"x has shape {tuple(shape)}; it should have channels along its last axis")
    if given.gate is not None:
        require_shape("gate", given.gate.shape, tuple(shape))
    if given.weight is not None:
        require_shape("weight", given.weight.shape, (shape[-1],))


def require_group(group_size: int | None, channels: int) -> None:
    """Raise unless the channels are so many groups."""
    if group_size is not None and (group_size < 1 or channels % group_size):
        raise InputError(
            f"group_size is {group_size}; it should divide the channels, {channels}, and be at "
            "least 1"
        )


def require_gate_activation(activation: str) -> None:
    """Raise unless it is one of those that are computed with the norm."""
    if activation not in GATES:
        raise InputError(f"activation is {activation!r}; it should be one of {', '.join(GATES)}")

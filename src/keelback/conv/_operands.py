"""The operands of a causal convolution, in one record."""

from typing import Any, Generic, NamedTuple, TypeVar

from keelback.compiled.checks import require_shape, require_tensor
from keelback.errors import InputError

T = TypeVar("T")
ACTIVATIONS = (None, "silu", "swish")


class ConvOperands(NamedTuple, Generic[T]):
    """What a convolution is given: tensors, or what is known of them.

    The same record serves for their gradients. Kernels see an axis of replicas before all others,
    or none for a single one.
    """

    x: T
    weight: T
    bias: T | None


def require_weight(weight: Any, bias: Any, channels: int) -> None:
    """Raise unless there are taps, and a bias if any, for so many channels."""
    require_tensor("weight", weight)
    require_shape("weight", weight.shape, (channels, "width"))
    if weight.shape[1] == 0:
        raise InputError("weight has no taps; its width should be at least 1")
    if bias is not None:
        require_tensor("bias", bias)
        require_shape("bias", bias.shape, (channels,))


def require_activation(activation: str | None) -> None:
    """Raise unless it is one of those that are computed with the convolution."""
    if activation not in ACTIVATIONS:
        raise InputError(f"activation is {activation!r}; it should be 'silu', 'swish' or None")

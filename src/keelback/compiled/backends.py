"""What runs an operator on one kind of device, and the one place that chooses it.

The packages `cpu` and `cuda` of an operator's room are its backends. Its reference in plain PyTorch
is not one: it needs no kernels, and runs wherever PyTorch does.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from keelback.compiled.layouts import Signature
from keelback.errors import InputError

NAMES = ("reference", "cpu", "cuda")


class Prepared(Protocol):
    """A call over operands of one signature: all that can be worked out before the numbers.

    Operands have the operator's leading axis of replicas, or all lack it and are one replica.
    """

    def forward(self, operands: Sequence[Tensor | None], keep: bool) -> tuple[Any, ...]:
        """The outputs, and behind them what the backward pass wants kept, or None for it."""

    def backward(
        self,
        gradients: Sequence[Tensor | None],
        kept: Sequence[Tensor | None],
        operands: Sequence[Tensor | None],
    ) -> tuple[Any, ...]:
        """The gradients of the differentiable operands, from those of the outputs."""


class Backend(Protocol):
    """An operator's kernels for one kind of device."""

    @property
    def WIDENS(self) -> bool:
        """Whether the kernels read half precision themselves, and compute in float32."""

    def prepare(self, signature: Signature, options: tuple[Any, ...]) -> Prepared:
        """The call over operands of this signature, remembered."""


AnyBackend = TypeVar("AnyBackend", bound=Backend)


def choose_backend(
    name: str | None,
    device: torch.device,
    backends: Mapping[str, AnyBackend],
    operand: str = "u",
) -> AnyBackend | None:
    """The backend for a device, or the one that was asked for; None is the reference.

    `operand` is what errors call the operand whose device counts.

    Tensors without data (meta) go to any of them: its operator knows the shapes that come out.

    Raises:
        InputError: There is no backend of that name, or it is for another device.
    """
    if name is None:
        return backends.get("cpu" if device.type == "meta" else device.type)
    if name not in NAMES:
        raise InputError(f"backend is {name!r}; it should be one of {', '.join(NAMES)}")
    if name not in ("reference", device.type) and device.type != "meta":
        raise InputError(f"backend is {name!r} and {operand} is on {device}; they should agree")
    return backends.get(name)

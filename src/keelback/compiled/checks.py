"""What the operands of any operator must look like."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from keelback.errors import InputError

HALF = (torch.float16, torch.bfloat16)
_CPU = torch.device("cpu")


class Typed(Protocol):
    """A tensor, or what is known of one."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of its entries."""

    @property
    def device(self) -> torch.device:
        """Where it is."""


def require_shape(name: str, x: Tensor | torch.Size, *allowed: Sequence[int | str]) -> None:
    """Raise unless x, or its shape, is one of the allowed shapes; a string stands for any size."""
    if not isinstance(x, (Tensor, tuple)):
        require_tensor(name, x)
    found = x.shape if isinstance(x, Tensor) else x
    for shape in allowed:
        if found == shape:
            return
        if len(found) == len(shape) and all(
            isinstance(want, str) or want == got for want, got in zip(shape, found, strict=True)
        ):
            return
    wanted = " or ".join("(" + ", ".join(str(size) for size in shape) + ")" for shape in allowed)
    raise InputError(f"{name} has shape {tuple(found)}; it should be {wanted}")


def require_tensor(name: str, x: Any) -> None:
    """Raise unless x is a tensor, or what is known of one."""
    if not isinstance(getattr(x, "dtype", None), torch.dtype):
        kind = "None" if x is None else f"a {type(x).__name__}"
        raise InputError(f"{name} is {kind}; it should be a tensor")


def shapes_of(given: Iterable[Any], names: Sequence[str]) -> Any:
    """The shapes of a record's operands but the last, `reset`, or None of those that are absent.

    `names` are theirs, with `?` behind those that may be absent.
    """
    *differentiable, _ = given  # PyTorch 2.8's compiler takes no slice of a named tuple.
    for name, x in zip(names, differentiable, strict=True):
        if x is not None or not name.endswith("?"):
            require_tensor(name.rstrip("?"), x)
    return [None if x is None else x.shape for x in differentiable]


def finite_scale(scale: float | None, k: Tensor) -> float:
    """By what queries are multiplied: one over the root of the size of the keys k if not given.

    Raises:
        InputError: It is not a finite number.
    """
    if scale is None:
        key = k.shape[-1] if k.ndim else 1
        return max(int(key), 1) ** -0.5  # A number also for compilers.
    if not math.isfinite(scale):
        raise InputError(f"scale is {scale}; it should be a finite number")
    return float(scale)


def computing_dtype(operands: Mapping[str, Typed | None]) -> torch.dtype:
    """The dtype to compute in, once all operands are known to be floating and on one device.

    float32 for float32, bfloat16, float16 and any mixture of them; float64 if all are float64.
    """
    present = {name: x for name, x in operands.items() if x is not None}
    if {(x.dtype, x.device) for x in present.values()} == {(torch.float32, _CPU)}:
        return torch.float32
    first = next(iter(present))
    device = present[first].device
    for name, x in present.items():
        if x.dtype not in (torch.float32, torch.float64, *HALF):
            raise InputError(
                f"{name} has dtype {x.dtype}; it should be float32, float64, bfloat16 or float16"
            )
        if x.device != device:
            raise InputError(
                f"{name} is on {x.device} and {first} on {device}; they should be on one device"
            )
    double = [name for name, x in present.items() if x.dtype == torch.float64]
    if double and len(double) < len(present):
        other = next(name for name in present if name not in double)
        raise InputError(
            f"{double[0]} has dtype torch.float64 and {other} {present[other].dtype}; "
            "either all or none should be float64"
        )
    return torch.float64 if double else torch.float32


def computing_dtype_of(given: Iterable[Typed | None], names: Sequence[str]) -> torch.dtype:
    """`computing_dtype` of a record's operands but the last, `reset`; `names` are theirs."""
    *differentiable, _ = given  # PyTorch 2.8's compiler takes no slice of a named tuple.
    return computing_dtype(dict(zip(names, differentiable, strict=True)))


def in_dtypes(given: Iterable[Tensor | None], wanted: Iterable[Any]) -> list[Any]:
    """The operands in the dtypes that they should have."""
    return [None if x is None else x.to(to) for x, to in zip(given, wanted, strict=True)]


def require_groups(name: str, groups: int, members: int, what: str = "channels") -> None:
    """Raise unless the groups divide the channels, or whatever else they are of."""
    if groups == 0 or members % groups:
        raise InputError(
            f"{name} has {groups} groups; their number should divide that of {what}, {members}"
        )

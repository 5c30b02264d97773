"""What the operands of any operator must look like, and which backend takes them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from keelback.errors import InputError

BACKENDS = ("reference", "cpu", "cuda")
HALF = (torch.float16, torch.bfloat16)
_CPU = torch.device("cpu")


def require_shape(name: str, x: Tensor | torch.Size, *allowed: Sequence[int | str]) -> None:
    """Raise unless x, or its shape, is one of the allowed shapes; a string stands for any size."""
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


def computing_dtype(operands: dict[str, Tensor | None]) -> torch.dtype:
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


def require_groups(name: str, groups: int, members: int, what: str = "channels") -> None:
    """Raise unless the groups divide the channels, or whatever else they are of."""
    if groups == 0 or members % groups:
        raise InputError(
            f"{name} has {groups} groups; their number should divide that of {what}, {members}"
        )


def reset_mask(
    reset: Tensor | None,
    cu_seqlens: Tensor | None,
    u: Tensor,
    batch: int,
    length: int,
    name: str = "u",
) -> Tensor | None:
    """The mask of the positions before which the state is zeroed, from either description of it.

    It should be on the device of u, which errors call by `name`.
    """
    if reset is not None:
        if cu_seqlens is not None:
            raise InputError("both reset and cu_seqlens are given; one of them should be")
        require_shape("reset", reset, (batch, length))
        if reset.dtype != torch.bool:
            raise InputError(f"reset has dtype {reset.dtype}; it should be torch.bool")
        if reset.device != u.device:
            raise InputError(
                f"reset is on {reset.device}; it should be on {u.device}, as {name} is"
            )
        return reset
    if cu_seqlens is None:
        return None
    require_shape("cu_seqlens", cu_seqlens, ("sequences + 1",))
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise InputError(f"cu_seqlens has dtype {cu_seqlens.dtype}; it should be int32 or int64")
    if batch != 1:
        raise InputError(
            f"cu_seqlens is given for a batch of {batch}; packed sequences should form a batch of 1"
        )
    bounds = cu_seqlens.tolist()
    if not bounds or bounds[0] != 0 or bounds[-1] != length or sorted(bounds) != bounds:
        raise InputError(
            f"cu_seqlens should rise from 0 to the length {length}; it is {bounds[:6]}"
            + ("..." if len(bounds) > 6 else "")
        )
    starts = [bound for bound in bounds[1:-1] if 0 < bound < length]
    mask = torch.zeros(1, length, dtype=torch.bool, device=u.device)
    mask[0, starts] = True
    return mask


def choose_backend(backend: str | None, device: torch.device, name: str = "u") -> str:
    """The backend for a device, or the one that was asked for if it can run there."""
    if backend is None:
        return device.type if device.type in BACKENDS else "reference"
    if backend not in BACKENDS:
        raise InputError(f"backend is {backend!r}; it should be one of {', '.join(BACKENDS)}")
    if backend not in ("reference", device.type):
        raise InputError(f"backend is {backend!r} and {name} is on {device}; they should agree")
    return backend

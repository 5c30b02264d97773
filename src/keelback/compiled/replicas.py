"""The axis of replicas, which operators put before all others, and where `vmap` puts its own."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class VmapInfo(Protocol):
    """What `vmap` says of its axis."""

    batch_size: int


def fold(x: Any, dim: int | None, size: int) -> Any:
    """Join the mapped axis, or `size` repeats, with the axis of replicas."""
    if not isinstance(x, Tensor):
        return x
    x = x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.flatten(0, 1)


def unfold(x: Tensor, size: int) -> Tensor:
    """Split the axis of replicas of a result into the mapped one and the replicas."""
    return x.unflatten(0, (size, x.shape[0] // size))


def one_replica(*arguments: Any) -> list[Any]:
    """Arguments whose tensors have the axis of replicas before their own, as a single one."""
    return [x.unsqueeze(0) if isinstance(x, Tensor) else x for x in arguments]

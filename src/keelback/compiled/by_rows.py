"""Calls by PyTorch's operations of operators between whose rows nothing is shared."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from keelback.compiled.backends import Backend, choose_backend
from keelback.compiled.calls import Calls
from keelback.compiled.checks import computing_dtype_of
from keelback.compiled.layouts import Layout
from keelback.compiled.operator import Fake, Operator
from keelback.compiled.watchers import without_autocast

_AXES = 4  # of v without replicas
Tensors = Sequence[Tensor | None]


class ByRows:
    """The calls of one signature; see `keelback.compiled.backends.Prepared`.

    An axis of replicas is joined with that of rows. The operands have values `v` (batch, length,
    heads, value) and, the last of those with gradients, initial states, which may be absent.

    Args:
        record: Makes a record of the operands from them in order, the last of which has none.
        v: What is known of the values.
        start: The states before the first step, of a record, as the operator returns states.
        forward: Output and last states, of a record in which there is something to compute.
        backward: Gradients of the operands, from a record and the gradients of both.
    """

    def __init__(
        self,
        record: Callable[..., Any],
        v: Layout,
        start: Callable[[Any], Tensor],
        forward: Callable[[Any], tuple[Tensor, Tensor]],
        backward: Callable[[Any, Tensor | None, Tensor | None], Sequence[Tensor | None]],
    ) -> None:
        self._record, self._device = record, v.device
        self._replicas = v.shape[0] if len(v.shape) > _AXES else None
        self._start, self._forward, self._backward = start, forward, backward

    def _joined(self, tensors: Tensors) -> list[Any]:
        """The axis of replicas joined with that of rows."""
        if self._replicas is None:
            return list(tensors)
        return [None if x is None else x.flatten(0, 1) for x in tensors]

    def _split(self, tensors: Tensors) -> tuple[Any, ...]:
        size = self._replicas
        if size is None:
            return tuple(tensors)
        return tuple(
            None if x is None else x.unflatten(0, (size, x.shape[0] // size if size else 0))
            for x in tensors
        )

    def forward(self, operands: Tensors, keep: bool) -> tuple[Any, ...]:
        """Output and last states; the backward pass computes again what it wants."""
        given = self._record(*self._joined(operands))
        if _is_empty(given):
            return self._split([torch.zeros_like(given.v), self._start(given).clone()])
        with without_autocast(self._device):
            return self._split(self._forward(given))

    def backward(
        self, gradients: Tensors, kept: Tensors, operands: Tensors
    ) -> tuple[Tensor | None, ...]:
        """The gradients of the differentiable operands."""
        given = self._record(*self._joined(operands))
        dy, dlast = self._joined(gradients)
        *differentiable, _ = given
        if _is_empty(given):
            found = [None if x is None else torch.zeros_like(x) for x in differentiable]
            if found[-1] is not None and dlast is not None:
                found[-1] = dlast.clone()
            return self._split(found)
        with without_autocast(self._device):
            computed = self._backward(given, dy, dlast)
        return self._split(
            [
                None if x is None or gradient is None else gradient.contiguous()
                for x, gradient in zip(differentiable, computed, strict=True)
            ]
        )


def calls_by_rows(
    name: str,
    record: Any,
    backend: Backend,
    *,
    differentiable: Sequence[str],
    require: Callable[[Any], None],
    definition: Callable[..., tuple[Tensor, Tensor]],
    fake: Fake,
) -> Calls:
    """Register an operator that has one backend for every device; gives the calls of it.

    Args:
        name: Its name in `torch.ops.keelback`.
        record: The named tuple of its operands, of which the last is `reset`.
        backend: Prepares a `ByRows`.
        differentiable: As `Operator` takes them: all operands but `reset`.
        require: Raises unless the operands fit together.
        definition: Output and last states by PyTorch's operations, of the operands in order.
        fake: Output and last states without values.
    """
    backends = {"cpu": backend, "cuda": backend}
    operator = Operator(
        name,
        differentiable=differentiable,
        others=("reset?",),
        outputs=("y", "last_states"),
        backends=backends,
        fake=fake,
    )
    floating = record._fields[:-1]

    def chosen(given: Any, named: str | None) -> tuple[Any, Any]:
        require(given)
        computing = computing_dtype_of(given, floating)
        found = choose_backend(named, given.v.device, backends, "v")
        return found, record(**dict.fromkeys(floating, computing), reset=torch.bool)

    return Calls(operator, record, chosen, lambda operands: definition(*operands))


def _is_empty(given: Any) -> bool:
    return 0 in (*given.v.shape, given.k.shape[-1])

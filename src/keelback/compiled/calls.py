"""The way of a call to a backend: past PyTorch's dispatcher where nothing intercepts it."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from keelback.compiled.backends import Prepared
from keelback.compiled.checks import in_dtypes
from keelback.compiled.guards import Recent, guard_over
from keelback.compiled.layouts import Signature, layouts_of, signature_of
from keelback.compiled.operator import Operator, Planned
from keelback.compiled.watchers import (
    is_one_node,
    is_unwatched,
    needs_gradient,
    runs_eagerly,
    without_autocast,
)

#: Calls that are remembered, by the layouts of their operands.
REMEMBERED = 1024


class Calls:
    """Calls of an operator on operands of any dtypes, which are planned once per signature.

    Args:
        operator: Takes the operands in the dtypes of a backend.
        record: Makes a record of operands from them in order.
        chosen: For a record of operands, or of what is known of them, and the name of a backend or
            None: the backend, or None for the definition, and the dtypes that it takes. Raises
            where operands do not fit together.
        definition: The outputs by PyTorch's operations, of operands and options.
    """

    def __init__(
        self,
        operator: Operator,
        record: Callable[..., Any],
        chosen: Callable[[Any, str | None], tuple[Any, Any]],
        definition: Callable[..., tuple[Tensor, ...]],
    ) -> None:
        self._operator, self._record = operator, record
        self._chosen, self._definition = chosen, definition
        self._prepared = lru_cache(maxsize=REMEMBERED)(self._taken_as_they_are)
        self._recent: Recent[Planned] = Recent()
        self._whole = operator.define_call(
            lambda operands, *how: self(self._record(*operands), *how)
        )

    def __call__(
        self, operands: Sequence[Tensor | None], options: tuple[Any, ...], backend: str | None
    ) -> tuple[Tensor, ...]:
        """The outputs, in the dtypes that they are computed in.

        Raises:
            InputError: An operand has the wrong shape, dtype or device, or the backend is not for
                it.
        """
        if is_unwatched():
            planned = self._recent.find((options, backend), operands)
            if planned is None and runs_eagerly(*operands):
                planned = self._planned(operands, options, backend)
            if planned is not None:
                return self._operator.run(planned, operands)
        if is_one_node():
            return self._whole(*operands, *options, backend)
        chosen, wanted = self._chosen(operands, backend)
        converted = self._record(*in_dtypes(operands, wanted))
        if chosen is not None:
            return self._operator(converted, *options)
        first: Any = operands[0]
        with without_autocast(first.device):
            return self._definition(converted, *options)

    def _planned(
        self, operands: Sequence[Tensor | None], options: tuple[Any, ...], backend: str | None
    ) -> Planned | None:
        call = self._prepared(signature_of(operands), options, backend)
        if call is None:
            return None
        planned = Planned(call, operands, options, guard_over(operands))
        self._recent.add((options, backend), operands, planned.fits, planned)
        return planned

    def _taken_as_they_are(
        self, signature: Signature, options: tuple[Any, ...], backend: str | None
    ) -> Prepared | None:
        """The call over operands of this signature, if a backend takes them without conversion."""
        given = self._record(*layouts_of(signature))
        chosen, wanted = self._chosen(given, backend)
        fit = all(x is None or x.dtype == to for x, to in zip(given, wanted, strict=True))
        prepared: Prepared | None = chosen.prepare(signature, options) if chosen and fit else None
        return prepared


class Steps:
    """Calls of one step, which have no gradients, planned once per signature.

    Args:
        plan: For a signature and options, the call over operands of it, or None if no kernel takes
            them. Raises where they do not fit together.
    """

    def __init__(self, plan: Callable[..., Any]) -> None:
        self._plan = lru_cache(maxsize=REMEMBERED)(plan)
        self._recent: Recent[Any] = Recent()

    def find(self, operands: Sequence[Tensor | None], *options: Any) -> Any | None:
        """The call over operands like these, if a kernel takes them as they are.

        None also where something intercepts the call, or a gradient is wanted.

        Raises:
            InputError: An operand has the wrong shape, dtype or device.
        """
        if not is_unwatched():
            return None
        call = self._recent.find(options, operands)
        if call is not None:
            return None if needs_gradient(*operands) else call
        if not runs_eagerly(*operands) or needs_gradient(*operands):
            return None
        call = self._plan(signature_of(operands), *options)
        if call is not None:
            self._recent.add(options, operands, guard_over(operands), call)
        return call

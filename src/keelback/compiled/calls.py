"""The way of a call to a backend: past PyTorch's dispatcher where nothing intercepts it."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from keelback.compiled.backends import Prepared
from keelback.compiled.checks import in_dtypes
from keelback.compiled.guards import guard_over
from keelback.compiled.layouts import Signature, layouts_of, signature_of
from keelback.compiled.operator import Operator, Planned
from keelback.compiled.watchers import is_unwatched, runs_eagerly, without_autocast

#: Calls that are remembered, by the layouts of their operands.
REMEMBERED = 1024
#: Of them those that are recognised at once, for the same options and absent operands.
_AT_ONCE = 8


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
        self._recent: dict[Any, tuple[Planned, ...]] = {}

    def __call__(
        self, operands: Sequence[Tensor | None], options: tuple[Any, ...], backend: str | None
    ) -> tuple[Tensor, ...]:
        """The outputs, in the dtypes that they are computed in.

        Raises:
            InputError: An operand has the wrong shape, dtype or device, or the backend is not for
                it.
        """
        if is_unwatched():
            present = [x for x in operands if x is not None]
            key = (options, backend, *[x is None for x in operands])
            recent = self._recent.get(key, ())
            for planned in recent:
                if planned.fits(*present):
                    return self._operator.run(planned, operands)
            if runs_eagerly(*operands):
                call = self._prepared(signature_of(operands), options, backend)
                if call is not None:
                    planned = Planned(call, operands, options, guard_over(operands))
                    self._remember(key, (planned, *recent[: _AT_ONCE - 1]))
                    return self._operator.run(planned, operands)
        chosen, wanted = self._chosen(operands, backend)
        converted = self._record(*in_dtypes(operands, wanted))
        if chosen is not None:
            return self._operator(converted, *options)
        first: Any = operands[0]
        with without_autocast(first.device):
            return self._definition(converted, *options)

    def _remember(self, key: Any, recent: tuple[Planned, ...]) -> None:
        if len(self._recent) >= REMEMBERED:
            self._recent.clear()
        self._recent[key] = recent

    def _taken_as_they_are(
        self, signature: Signature, options: tuple[Any, ...], backend: str | None
    ) -> Prepared | None:
        """The call over operands of this signature, if a backend takes them without conversion."""
        given = self._record(*layouts_of(signature))
        chosen, wanted = self._chosen(given, backend)
        fit = all(x is None or x.dtype == to for x, to in zip(given, wanted, strict=True))
        prepared: Prepared | None = chosen.prepare(signature, options) if chosen and fit else None
        return prepared

"""The operands of the generalised delta rule, in one record, and what they must look like."""

from typing import Any, Generic, NamedTuple, TypeVar

from keelback.compiled.checks import require_shape
from keelback.compiled.resets import require_reset

T = TypeVar("T")


class Operands(NamedTuple, Generic[T]):
    """What a generalised delta rule is given, by its names in `generalised_delta_rule`.

    All but `reset` have gradients. Backends may see an axis of replicas before all others.
    """

    q: T
    k: T
    v: T
    a: T
    b: T
    g: T
    initial_states: T | None = None
    reset: T | None = None

    @property
    def differentiable(self) -> "tuple[T | None, ...]":
        """All but `reset`."""
        return self[:-1]


#: By what the names of the operands end in the schema of an operator: `?` may be absent.
DIFFERENTIABLE = ("q", "k", "v", "a", "b", "g", "initial_states?")


def require_generalised(given: Operands[Any]) -> None:
    """Raise unless these fit together."""
    _require_shapes(("batch", "length"), given, "initial_states")
    if given.reset is not None:
        require_reset(given.reset, given.v.shape[:2], given.v.device, "v")


def require_step(given: Operands[Any]) -> None:
    """Raise unless these fit together in a step of the recurrence."""
    _require_shapes(("batch",), given, "states")


def _require_shapes(rows: tuple[str, ...], given: Operands[Any], name_of_states: str) -> None:
    """Raise unless the shapes fit, where `rows` are the axes before the heads."""
    require_shape("v", given.v.shape, (*rows, "heads", "value"))
    *sizes, value = given.v.shape
    require_shape("k", given.k.shape, (*sizes, "key"))
    for name in ("q", "a", "b", "g"):
        require_shape(name, getattr(given, name).shape, tuple(given.k.shape))
    if given.initial_states is not None:
        shape = (sizes[0], sizes[-1], given.k.shape[-1], value)
        require_shape(name_of_states, given.initial_states.shape, shape)

"""The operands of gated linear attention, in one record, and what they must look like."""

from typing import Any, Generic, NamedTuple, TypeVar

from keelback.compiled.checks import require_groups, require_shape, shapes_of
from keelback.compiled.resets import require_reset

T = TypeVar("T")


class Operands(NamedTuple, Generic[T]):
    """What gated linear attention is given, by its names in `gated_linear_attention`.

    All but `reset` have gradients. Backends may see an axis of replicas before all others.
    """

    q: T
    k: T
    v: T
    g: T
    weights: T | None = None
    initial_states: T | None = None
    reset: T | None = None

    @property
    def by_channel(self) -> bool:
        """Whether there is a log decay per key channel, and not one per head."""
        return len(self.g.shape) == len(self.v.shape)  # type: ignore[attr-defined]

    @property
    def differentiable(self) -> "tuple[T | None, ...]":
        """All but `reset`."""
        return self[:-1]


#: By what the names of the operands end in the schema of an operator: `?` may be absent.
DIFFERENTIABLE = ("q", "k", "v", "g", "weights?", "initial_states?")


def require_attention(given: Operands[Any]) -> None:
    """Raise unless these fit together."""
    _require_shapes(("batch", "length"), given, "initial_states")
    if given.reset is not None:
        require_reset(given.reset, given.v.shape[:2], given.v.device, "v")


def require_step(given: Operands[Any]) -> None:
    """Raise unless these fit together in a step of the recurrence."""
    _require_shapes(("batch",), given, "states")


def _require_shapes(rows: tuple[str, ...], given: Operands[Any], name_of_states: str) -> None:
    """Raise unless the shapes fit, where `rows` are the axes before the heads."""
    q, k, v, g, weights, states = shapes_of(given, DIFFERENTIABLE)
    require_shape("v", v, (*rows, "heads", "value"))
    *sizes, heads, value = v
    require_shape("k", k, (*sizes, "groups", "key"))
    groups, key = k[-2:]
    require_groups("k", groups, heads, "heads of v")
    require_shape("q", q, tuple(k))
    require_shape("g", g, (*sizes, heads), (*sizes, heads, key))
    if weights is not None:
        require_shape("weights", weights, (*sizes, heads))
    if states is not None:
        require_shape(name_of_states, states, (v[0], heads, value, key))

"""The operands of a delta rule, in one record: what they must look like, and their sizes."""

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from keelback.compiled.checks import HALF, require_groups, require_shape, shapes_of
from keelback.compiled.resets import require_reset

T = TypeVar("T")


class Operands(NamedTuple, Generic[T]):
    """What a delta rule is given, by its names in `delta_rule`: tensors, or what is known of them.

    All but `reset` have gradients, for which the same record serves. Backends may see an axis of
    replicas before all others.
    """

    q: T
    k: T
    v: T
    g: T
    beta: T
    initial_states: T | None = None
    reset: T | None = None

    @property
    def differentiable(self) -> "tuple[T | None, ...]":
        """All but `reset`."""
        return self[:-1]


#: By what the names of the operands end in the schema of an operator: `?` may be absent.
DIFFERENTIABLE = ("q", "k", "v", "g", "beta", "initial_states?")
OTHERS = ("reset?",)
#: Whether q and k are normalised, whether PyTorch's operations are to compute it all, and by what q
#: is multiplied.
OPTIONS = ("normalise", "by_chunks", "float scale")
Options = tuple[bool, bool, float]


@dataclass(frozen=True)
class DeltaSizes:
    """The sizes of a delta rule."""

    batch: int
    length: int
    heads: int
    value: int
    groups: int
    key: int

    @classmethod
    def of(cls, given: Operands[Any]) -> "DeltaSizes":
        """Those of operands without the axis of replicas."""
        return cls(*given.v.shape, *given.k.shape[2:])

    @property
    def heads_per_group(self) -> int:
        """Heads that share q and k."""
        return self.heads // self.groups

    @property
    def empty(self) -> bool:
        """Whether there is no step to compute, or nothing in it."""
        return not (self.batch and self.length and self.heads and self.value and self.key)


def require_delta_rule(given: Operands[Any]) -> None:
    """Raise unless these fit together."""
    _require_shapes(("batch", "length"), given, "initial_states")
    if given.reset is not None:
        require_reset(given.reset, given.v.shape[:2], given.v.device, "v")


def require_step(given: Operands[Any]) -> None:
    """Raise unless these fit together in a step of the recurrence."""
    _require_shapes(("batch",), given, "states")


def _require_shapes(rows: tuple[str, ...], given: Operands[Any], name_of_states: str) -> None:
    """Raise unless the shapes fit, where `rows` are the axes before the heads."""
    q, k, v, g, beta, states = shapes_of(given, DIFFERENTIABLE)
    require_shape("v", v, (*rows, "heads", "value"))
    *sizes, heads, value = v
    require_shape("k", k, (*sizes, "groups", "key"))
    groups, key = k[-2:]
    require_groups("k", groups, heads, "heads of v")
    require_shape("q", q, tuple(k))
    require_shape("g", g, (*sizes, heads), (*sizes, heads, key))
    require_shape("beta", beta, (*sizes, heads))
    if states is not None:
        require_shape(name_of_states, states, (v[0], heads, key, value))


def dtype_of_states(computing: torch.dtype) -> torch.dtype:
    """The dtype of the states of rules whose values have this one."""
    return torch.float32 if computing in HALF else computing


def wanted_dtypes(given: Operands[Any], computing: torch.dtype, widens: bool) -> Operands[Any]:
    """In which dtype a backend takes each operand.

    Kernels that widen what they read take q, k and v in the half precision that they share, and
    decays and beta as they are.
    """
    found = {given.q.dtype, given.k.dtype, given.v.dtype}
    shared = widens and len(found) == 1 and found <= set(HALF)
    stored = given.v.dtype if shared else computing
    g, beta = (x.dtype if widens else computing for x in (given.g, given.beta))
    return Operands(stored, stored, stored, g, beta, computing, torch.bool)

"""The operands of a scan by heads, in one record: what they must look like, and their sizes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from keelback.compiled.checks import HALF, require_groups, require_shape, shapes_of
from keelback.compiled.layouts import Layout
from keelback.compiled.resets import require_reset
from keelback.errors import InputError
from keelback.ssd.reference import DtLimit

T = TypeVar("T")


class Operands(NamedTuple, Generic[T]):
    """What a scan by heads is given, by its names in `ssd`: tensors, or what is known of them.

    All but `reset` have gradients, for which the same record serves. A step's operands lack the
    length; the states before it are its initial states. Backends may see an axis of replicas before
    all others.
    """

    x: T
    dt: T
    A: T
    B: T
    C: T
    D: T | None = None
    z: T | None = None
    dt_bias: T | None = None
    initial_states: T | None = None
    reset: T | None = None

    @property
    def differentiable(self) -> "tuple[T | None, ...]":
        """All but `reset`."""
        return self[:-1]


def replaced(given: Operands[T], new: Mapping[str, Any]) -> Operands[T]:
    """`_replace`, which PyTorch 2.8's compiler does not take."""
    found: list[Any] = [new.get(name, x) for name, x in zip(Operands._fields, given, strict=True)]
    return Operands(*found)


#: By what the names of the operands end in the schema of an operator: `?` may be absent.
DIFFERENTIABLE = ("x", "dt", "A", "B", "C", "D?", "z?", "dt_bias?", "initial_states?")
OTHERS = ("reset?",)
#: How step sizes are made of dt: softplus, and the lowest and highest.
OPTIONS = ("dt_softplus", "float dt_min", "float dt_max")
Options = tuple[bool, float, float]


@dataclass(frozen=True)
class SsdSizes:
    """The sizes of a scan by heads."""

    batch: int
    length: int
    heads: int
    head_dim: int
    groups: int
    states: int

    @classmethod
    def of(cls, given: Operands[Any]) -> "SsdSizes":
        """Those of a scan of operands without the axis of replicas."""
        return cls(*given.x.shape, *given.B.shape[2:])

    @property
    def heads_per_group(self) -> int:
        """Heads that share B and C."""
        return self.heads // self.groups

    @property
    def empty(self) -> bool:
        """Whether there is no step to compute."""
        return not (self.batch and self.length and self.heads and self.head_dim)


def require_ssd(given: Operands[Any]) -> None:
    """Raise unless these fit together in a scan."""
    _require_shapes(("batch", "length"), given, "initial_states")
    if given.reset is not None:
        require_reset(given.reset, given.x.shape[:2], given.x.device, "x")


def require_step(given: Operands[Any]) -> None:
    """Raise unless these fit together in a step of the recurrence."""
    _require_shapes(("batch",), given, "states")


def _require_shapes(rows: tuple[str, ...], given: Operands[Any], name_of_states: str) -> None:
    """Raise unless the shapes fit, where `rows` are the axes before the heads."""
    x, dt, A, B, C, D, z, dt_bias, states = shapes_of(given, DIFFERENTIABLE)
    require_shape("x", x, (*rows, "heads", "head_dim"))
    *sizes, heads, head_dim = x
    require_shape("dt", dt, (*sizes, heads))
    require_shape("A", A, (heads,))
    require_shape("B", B, (*sizes, "groups", "state"))
    groups, state = B[-2:]
    require_groups("B", groups, heads, "heads")
    require_shape("C", C, (*sizes, groups, state))
    if D is not None:
        require_shape("D", D, (heads,), (heads, head_dim))
    if z is not None:
        require_shape("z", z, tuple(x))
    if dt_bias is not None:
        require_shape("dt_bias", dt_bias, (heads,))
    if states is not None:
        require_shape(name_of_states, states, (x[0], heads, head_dim, state))


#: Axes of those operands of a step that mamba-ssm has repeated, for each number of a head and, of
#: A, for each state.
AXES_OF_HEADS = {"dt": 2, "A": 1, "dt_bias": 1}


def without_repeats(given: Operands[Layout]) -> Operands[Layout] | None:
    """A step's operands less the axes along which they are repeated, or None if some differ there.

    Raises:
        InputError: x or B has another number of axes, or a repeated operand other sizes than they.
    """
    require_shape("x", given.x.shape, ("batch", "heads", "head_dim"))
    require_shape("B", given.B.shape, (given.x.shape[0], "groups", "state"))
    found = {}
    sizes = (*given.x.shape, *given.B.shape[2:])
    for name, axes in AXES_OF_HEADS.items():
        one = getattr(given, name)
        if one is None:
            continue
        shape = {"dt": sizes[:3], "A": sizes[1:], "dt_bias": sizes[1:3]}[name]
        require_shape(name, one.shape, shape)
        ends = zip(one.shape[axes:], one.stride[axes:], strict=True)
        if any(size > 1 and step for size, step in ends):
            return None
        found[name] = Layout(one.shape[:axes], one.stride[:axes], one.dtype, one.device)
    return replaced(given, found)


def options_of(dt_softplus: bool, dt_limit: DtLimit) -> Options:
    """How step sizes are made of dt.

    Raises:
        InputError: The limits of the step size are not two numbers in order.
    """
    try:
        low, high = map(float, dt_limit)
    except (TypeError, ValueError):
        low = high = math.nan
    if math.isnan(low) or math.isnan(high) or low > high:
        raise InputError(f"dt_limit is {dt_limit}; it should be (lowest, highest) step size")
    return bool(dt_softplus), low, high


def wanted_dtypes(given: Operands[Any], computing: torch.dtype, widens: bool) -> Operands[Any]:
    """In which dtype a backend takes each operand.

    Kernels that widen what they read take x, B, C and z in the half precision that they share, and
    the step sizes as they are.
    """
    found = {one.dtype for one in (given.x, given.B, given.C, given.z) if one is not None}
    shared = widens and len(found) == 1 and found <= set(HALF)
    stored = given.x.dtype if shared else computing
    step = given.dt.dtype if widens else computing
    dtypes = {"x": stored, "B": stored, "C": stored, "z": stored, "dt": step, "reset": torch.bool}
    return Operands(*[dtypes.get(name, computing) for name in Operands._fields])

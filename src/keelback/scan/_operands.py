"""The operands of a scan, in one record: what they must look like, and their sizes."""

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from keelback.compiled.checks import HALF, require_groups, require_shape, shapes_of
from keelback.compiled.resets import require_reset

T = TypeVar("T")


class Operands(NamedTuple, Generic[T]):
    """What a scan is given, by its names in `selective_scan`: tensors, or what is known of them.

    All but `reset` have gradients, for which the same record serves. A step's operands lack the
    length; the state before it is its initial state. Kernels see an axis of replicas before all
    others, or none for a single one.
    """

    u: T
    delta: T
    A: T
    B: T
    C: T
    D: T | None = None
    z: T | None = None
    delta_bias: T | None = None
    initial_state: T | None = None
    reset: T | None = None

    @property
    def shares_delta(self) -> bool:
        """Whether all channels have one step size."""
        given: Operands[Any] = self
        return bool(given.delta.shape[-1] < given.u.shape[-1])

    @property
    def differentiable(self) -> "tuple[T | None, ...]":
        """All but `reset`."""
        return self[:-1]


#: By what the names of the operands end in the schema of an operator: `?` may be absent.
DIFFERENTIABLE = ("u", "delta", "A", "B", "C", "D?", "z?", "delta_bias?", "initial_state?")
OTHERS = ("reset?",)


@dataclass(frozen=True)
class ScanSizes:
    """The sizes of one scan; u has the shape (replicas, rows, length, channels)."""

    replicas: int
    rows: int
    length: int
    channels: int
    states: int
    groups: int

    @classmethod
    def of(cls, given: Operands[Any]) -> "ScanSizes":
        """Those of a scan of operands, with or without the axis of replicas."""
        *replicas, rows, length, channels = given.u.shape
        states, groups = given.A.shape[-1], given.B.shape[-2]
        return cls(replicas[0] if replicas else 1, rows, length, channels, states, groups)

    @property
    def sequences(self) -> int:
        """Rows of all replicas."""
        return self.replicas * self.rows

    @property
    def channels_per_group(self) -> int:
        """Channels that share B and C."""
        return self.channels // self.groups

    @property
    def empty(self) -> bool:
        """Whether there is no step to compute."""
        return not (self.sequences and self.length and self.channels)


def require_scan(given: Operands[Any]) -> None:
    """Raise unless these fit together in a scan."""
    _require_shapes(("batch", "length"), given, "initial_state")
    u, reset = given.u, given.reset
    if reset is None:
        return
    require_reset(reset, u.shape[:2], u.device)


def require_step(given: Operands[Any]) -> None:
    """Raise unless these fit together in a step of the recurrence."""
    _require_shapes(("batch",), given, "state")


def _require_shapes(axes: tuple[str, ...], given: Operands[Any], state_name: str) -> None:
    """Raise unless the shapes fit, where `axes` come before the channels of u."""
    u, delta, A, B, C, D, z, delta_bias, state = shapes_of(given, DIFFERENTIABLE)
    require_shape("u", u, (*axes, "channels"))
    *rows, channels = u
    require_shape("A", A, (channels, "state"))
    states = A[1]
    require_shape("delta", delta, (*rows, channels), (*rows, 1))
    require_shape("B", B, (*rows, "groups", states))
    require_groups("B", B[-2], channels)
    require_shape("C", C, (*rows, B[-2], states))
    for name, x in (("D", D), ("delta_bias", delta_bias)):
        if x is not None:
            require_shape(name, x, (channels,))
    if z is not None:
        require_shape("z", z, (*rows, channels))
    if state is not None:
        require_shape(state_name, state, (rows[0], channels, states))


def wanted_dtypes(given: Operands[Any], computing: torch.dtype, widens: bool) -> Operands[Any]:
    """In which dtype a backend takes each operand.

    Kernels that widen what they read take the sequences in the half precision that they share,
    unless the step size is one for all channels: its gradient is a sum over the channels, which
    half precision would round term by term.
    """
    sequences = (given.u, given.delta, given.B, given.C, given.z)
    found = {x.dtype for x in sequences if x is not None}
    shared = widens and len(found) == 1 and found <= set(HALF) and not given.shares_delta
    stored = given.u.dtype if shared else computing
    dtypes = {**dict.fromkeys(_SEQUENCES, stored), "reset": torch.bool}
    return Operands(*[dtypes.get(name, computing) for name in Operands._fields])


_SEQUENCES = ("u", "delta", "B", "C", "z")

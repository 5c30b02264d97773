"""`torch.ops.keelback.selective_scan`, and the way of a scan or a step to its backend."""

from typing import Any, Protocol

from torch import Tensor

from keelback.compiled.backends import Backend, choose_backend
from keelback.compiled.calls import Calls, Steps
from keelback.compiled.checks import computing_dtype_of, in_dtypes
from keelback.compiled.layouts import Layout, Signature, layouts_of
from keelback.compiled.operator import Operator
from keelback.scan import cpu, cuda
from keelback.scan._operands import (
    DIFFERENTIABLE,
    OTHERS,
    Operands,
    ScanSizes,
    require_scan,
    require_step,
    wanted_dtypes,
)
from keelback.scan.cpu.plan import CpuPlan
from keelback.scan.reference import selective_scan_reference, selective_scan_step_reference


class ForwardPart(Protocol):
    """A part of a long scan, scanned without the state before it.

    Attributes:
        end: The state after the part, (batch, channels, state).
        decay: What remains after the part of a state before it; see `_decay`.
        felt: How many of the first steps feel the state before them, where the backward pass asks.
    """

    end: Tensor
    decay: Tensor
    felt: int

    def __init__(self, operands: Operands[Tensor], softplus: bool) -> None: ...

    def output(self, start: Tensor) -> Tensor:
        """The output, given the state before the part."""


class BackwardPart(Protocol):
    """A part whose gradients need that of the state after it.

    Attributes:
        of_start: The gradient of the state before the part, as far as it comes from `dy`.
    """

    of_start: Tensor

    def __init__(
        self, dy: Tensor, operands: Operands[Tensor], softplus: bool, felt: int
    ) -> None: ...

    def gradients(self, of_last: Tensor) -> list[Tensor | None]:
        """Of the operands from u to delta_bias, given that of the state after the part."""


class ScanStep(Protocol):
    """The steps over operands of one signature."""

    def advance(self, operands: Operands[Tensor]) -> tuple[Tensor, Tensor]:
        """Output and new state; in place, that is the initial state, overwritten."""


class ScanBackend(Backend, Protocol):
    """The scan on one kind of device: whole, in parts over processes, and step by step."""

    ForwardPart: type[ForwardPart]
    BackwardPart: type[BackwardPart]

    def prepare_step(
        self, given: Operands[Layout], softplus: bool, in_place: bool
    ) -> ScanStep | None:
        """The steps over operands like these, or None where PyTorch's operations should do them."""


BACKENDS: Any = {"cpu": cpu, "cuda": cuda}


def _shapes(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Of output, last state and chunk states, which the GPU keeps none of."""
    operands: Operands[Tensor] = Operands(*arguments[: len(Operands._fields)])
    u, A = operands.u, operands.A
    keep = arguments[-1] and not u.is_cuda
    kept = CpuPlan(ScanSizes.of(operands)).chunk_states_shape if keep else (u.shape[0], 0)
    last = (*u.shape[:2], *A.shape[1:])
    return u.new_empty(u.shape), A.new_empty(last), u.new_empty(kept)


SCAN = Operator(
    "selective_scan",
    differentiable=DIFFERENTIABLE,
    others=OTHERS,
    options=("delta_softplus",),
    outputs=("y", "last_state"),
    kept=("chunk_states",),
    backends=BACKENDS,
    fake=_shapes,
)


def _chosen(given: Operands[Any], backend: str | None) -> tuple[Any, Operands[Any]]:
    """The backend for these operands, or None for the reference, and the dtypes that it takes."""
    require_scan(given)
    computing = computing_dtype_of(given, Operands._fields[:-1])
    chosen = choose_backend(backend, given.u.device, BACKENDS)
    return chosen, wanted_dtypes(given, computing, chosen is not None and chosen.WIDENS)


def _defined(operands: Operands[Tensor], softplus: bool) -> tuple[Tensor, Tensor]:
    return selective_scan_reference(*operands[:8], softplus, *operands[8:])


_CALLS = Calls(SCAN, Operands, _chosen, _defined)


def scan(
    operands: Operands[Tensor], softplus: bool, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Output in the dtype of u, and last state.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.
    """
    y, last = _CALLS(operands, (softplus,), backend)
    dtype = operands.u.dtype
    return y if y.dtype == dtype else y.to(dtype), last


def across_backend(operands: Operands[Tensor]) -> tuple[ScanBackend | None, Operands[Tensor]]:
    """The backend that scans these operands in parts, and the operands in its dtypes."""
    chosen, wanted = _chosen(operands, None)
    return chosen, Operands(*in_dtypes(operands, wanted))


def step(operands: Operands[Tensor], softplus: bool, in_place: bool) -> tuple[Tensor, Tensor]:
    """Output in the dtype of u and new state; in place, that is the initial state, overwritten.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.
    """
    state = operands.initial_state
    assert state is not None
    call: ScanStep | None = _STEPS.find(operands, softplus, in_place)
    if call is not None:
        return call.advance(operands)
    require_step(operands)
    names = (*Operands._fields[:8], "state")
    dtype = computing_dtype_of(operands, names)
    converted: dict[str, Any] = {
        name: None if x is None else x.to(dtype)
        for name, x in zip(names, operands[:-1], strict=True)
    }
    y, new_state = selective_scan_step_reference(**converted, delta_softplus=softplus)
    return y.to(operands.u.dtype), state.copy_(new_state) if in_place else new_state


def _step_by_kernels(signature: Signature, softplus: bool, in_place: bool) -> ScanStep | None:
    """The step over operands of this signature, if a kernel takes them as they are."""
    given: Any = Operands(*layouts_of(signature))
    require_step(given)
    backend: ScanBackend = BACKENDS[given.initial_state.device.type]
    return backend.prepare_step(given, softplus, in_place)


_STEPS = Steps(_step_by_kernels)

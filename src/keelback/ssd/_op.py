"""`torch.ops.keelback.ssd`, and the way of a scan by heads to its backend."""

from typing import Any

from torch import Tensor

from keelback.compiled.backends import choose_backend
from keelback.compiled.calls import Calls, Steps
from keelback.compiled.checks import computing_dtype_of
from keelback.compiled.layouts import Signature, layouts_of, signature_of
from keelback.compiled.operator import Operator
from keelback.compiled.watchers import without_autocast
from keelback.ssd import cpu, cuda
from keelback.ssd._operands import (
    AXES_OF_HEADS,
    DIFFERENTIABLE,
    OPTIONS,
    OTHERS,
    Operands,
    Options,
    replaced,
    require_ssd,
    require_step,
    wanted_dtypes,
    without_repeats,
)
from keelback.ssd.reference import ssd_reference, ssd_step_reference

BACKENDS: Any = {"cpu": cpu, "cuda": cuda}


def _shapes(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Of output and last states."""
    operands: Operands[Tensor] = Operands(*arguments[: len(Operands._fields)])
    x, B = operands.x, operands.B
    *rows, _, heads, head_dim = x.shape
    return x.new_empty(x.shape), operands.A.new_empty((*rows, heads, head_dim, B.shape[-1]))


SSD = Operator(
    "ssd",
    differentiable=DIFFERENTIABLE,
    others=OTHERS,
    options=OPTIONS,
    outputs=("y", "last_states"),
    backends=BACKENDS,
    fake=_shapes,
)


def _chosen(given: Operands[Any], backend: str | None) -> tuple[Any, Operands[Any]]:
    """The backend for these operands, or None for the reference, and the dtypes that it takes."""
    require_ssd(given)
    computing = computing_dtype_of(given, Operands._fields[:-1])
    chosen = choose_backend(backend, given.x.device, BACKENDS, "x")
    return chosen, wanted_dtypes(given, computing, chosen is not None and chosen.WIDENS)


def _defined(operands: Operands[Tensor], *options: Any) -> tuple[Tensor, Tensor]:
    return ssd_reference(*operands, options[0], options[1:])


_CALLS = Calls(SSD, Operands, _chosen, _defined)


def scan_by_heads(
    operands: Operands[Tensor], options: Options, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Output in the dtype of x, and last states.

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.
    """
    y, last = _CALLS(operands, options, backend)
    return y.to(operands.x.dtype), last


def step(
    operands: Operands[Tensor], options: Options, in_place: bool = False
) -> tuple[Tensor, Tensor]:
    """Output in the dtype of x, and new states; in place, those are the initial ones, overwritten.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.
    """
    call = _STEPS.find(operands, options, in_place)
    if call is not None:
        return call.forward(operands)
    require_step(operands)
    dtype = computing_dtype_of(operands, (*Operands._fields[:8], "states"))
    *floating, before, _ = operands
    given: Any = [None if x is None else x.to(dtype) for x in (*floating, before)]
    overwrites = in_place and given[-1] is before
    converted: Operands[Any] = Operands(*given)
    call = _STEPS.find(converted, options, overwrites)
    if call is not None:
        y, after = call.forward(converted)
    else:
        with without_autocast(operands.x.device):
            y, after = ssd_step_reference(*given, options[0], options[1:])  # type: ignore[call-arg]
    if in_place and before is not None and after is not before:
        after = before.copy_(after)
    return y.to(operands.x.dtype), after


def update_repeated(operands: Operands[Tensor], options: Options) -> Tensor | None:
    """Output of a step in place whose dt, A and dt_bias are repeated along further axes, by stride.

    None where they are not repeated but may differ there.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.
    """
    call = _STEPS.find(operands, options, True, True)
    if call is not None:
        y: Tensor = call.forward(operands)[0]
        return y
    layouts: Any = Operands(*layouts_of(signature_of(operands)))
    if without_repeats(layouts) is None:
        return None
    given: Any = {
        name: x if x is None else x[(..., *[0] * (x.ndim - axes))]
        for name, axes in AXES_OF_HEADS.items()
        for x in (getattr(operands, name),)
    }
    return step(replaced(operands, given), options, True)[0]


def _step_by_kernels(
    signature: Signature, options: Options, in_place: bool, repeated: bool = False
) -> cpu.CpuStep | cuda.CudaStep | None:
    """The step over operands of this signature, if a kernel takes them as they are."""
    given: Any = Operands(*layouts_of(signature))
    if repeated:
        given = without_repeats(given)
        if given is None:
            return None
    require_step(given)
    computing_dtype_of(given, (*Operands._fields[:8], "states"))
    backend = BACKENDS.get(given.x.device.type)
    return None if backend is None else backend.prepare_step(given, options, in_place)


_STEPS = Steps(_step_by_kernels)

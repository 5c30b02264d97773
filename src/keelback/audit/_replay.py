"""A reading proves itself: the recurrence, run again, must make what the layer hands on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from keelback.audit._recurrence import Recurrence
from keelback.audit.adapters.base import Adapter, LayerCall

TOLERANCE = 1e-3
"""Relative difference up to which a recurrence is the layer's, in float32 and float64."""
TOLERANCE_IN_HALF = 0.05
"""The same where the layer computes in bfloat16 or float16."""
_NOISE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 0.01, torch.bfloat16: 0.03}
"""What rounding may change of an output, as a share of it; scans run in float32 inside."""
_TINY = 1e-30


@dataclass(frozen=True)
class Replay:
    """How what the recurrence makes differs from what the layer handed on.

    Attributes:
        difference: norm of the difference over the norm of what the state contributes, all
            channels together; NaN where the adapter does not say what is handed on.
        worst: the same of the channel and direction where it is largest, less what rounding makes.
        tolerance: the most that `worst` may be.
        why_not: why the reading is not taken; `None` where it is proved or cannot be checked.
    """

    difference: float
    worst: float
    tolerance: float
    why_not: str | None = None

    @property
    def is_proof(self) -> bool:
        """Whether there was something to compare and it agrees."""
        return self.why_not is None and self.difference == self.difference

    def worse_of(self, other: "Replay | None") -> "Replay":
        """The one that speaks more against the reading."""
        if other is None or (other.why_not is None and self.why_not is not None):
            return self
        if other.why_not is not None and self.why_not is None:
            return other
        return self if self.worst >= other.worst or other.worst != other.worst else other


NOTHING_FINITE = "no output of the layer is finite"
"""Why a layer is not read that overflows everywhere: it may be what it looks like."""

NOT_COMPARED = Replay(float("nan"), float("nan"), TOLERANCE)
"""Of a layer whose adapter does not say what is handed on."""


def unread(reason: str) -> Replay:
    """A layer that could not be read at all."""
    nan = float("nan")
    return Replay(nan, nan, TOLERANCE, reason)


def left_over(adapter: Adapter, module: Any) -> list[str]:
    """Parameters of a layer that its adapter does not speak of."""
    if adapter.parts is None:
        return []
    names = (name for name, _ in module.named_parameters())
    return sorted(name for name in names if _part(name) not in adapter.parts)


def _part(name: str) -> str:
    """The part of a layer that a parameter belongs to, also where torch computes it from others."""
    return name.removeprefix("parametrizations.").split(".")[0]


_HALF = (torch.float16, torch.bfloat16)


def computes_in_half(call: LayerCall) -> bool:
    """Whether rounding to a half type hides what a faint state does in the call."""
    given = [own.input for own in call.seen.values()]
    return any(x.dtype in _HALF for x in (call.output, *given) if x is not None)


def holds_buffers_in_half(module: nn.Module) -> bool:
    """Whether a layer keeps numbers of its own in a half type, such as MiniMax's decays.

    Each is rounded by itself, so that they belong to one recurrence only up to that rounding,
    however precisely the layer computes with them.
    """
    return any(buffer.dtype in _HALF for buffer in module.buffers())


@contextmanager
def in_float32(module: nn.Module) -> Iterator[None]:
    """Within the block, a layer's half-precision weights are in float32, and so is its work."""
    kept: list[tuple[dict[str, Any], str, Any]] = []
    for part in module.modules():
        both: tuple[Any, Any] = (part._parameters, part._buffers)
        for held in both:
            for name, tensor in held.items():
                if tensor is not None and tensor.dtype in _HALF:
                    kept.append((held, name, tensor))
                    held[name] = (
                        nn.Parameter(tensor.detach().float(), requires_grad=False)
                        if isinstance(tensor, nn.Parameter)
                        else tensor.float()
                    )
    device = next((p.device.type for p in module.parameters()), "cpu")
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for held, name, tensor in kept:
            held[name] = tensor


def call_in_float32(module: nn.Module, given: Mapping[str, Any]) -> None:
    """Run a layer once more on what it was given, its inputs in float32.

    Without cache: the call begins a sequence. A layer that cannot be run so (a quantised one) is
    left with the proof that half precision allows.
    """
    arguments = {name: _in_float32(value) for name, value in given.items()}
    by_place = [value for name, value in arguments.items() if name.startswith("argument ")]
    by_name = {n: value for n, value in arguments.items() if not n.startswith("argument ")}
    with suppress(Exception):
        module(*by_place, **by_name)


def _in_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALF else value
    return value if value is None or isinstance(value, bool | int | float | str) else None


@torch.no_grad()
def replayed(
    adapter: Adapter,
    module: Any,
    call: LayerCall,
    recurrences: Sequence[Recurrence],
    holds_rounded: bool = False,
) -> Replay:
    """Compare what `recurrences` make with what the layer handed on in `call`.

    Where the layer `holds_rounded` numbers that it works out beforehand (see
    `holds_buffers_in_half`), it may differ as one that computes in half precision.
    """
    outputs = [recurrence.output() for recurrence in recurrences]
    predicted = adapter.hand_on(module, call, outputs)
    if predicted is None:
        return NOT_COMPARED
    project, handed = _handed_on(adapter, module, call)
    if handed is None:
        return unread("the layer gave no tensor to compare with")
    own = project(predicted)
    if own.numel() != handed.numel():
        return unread(
            f"the layer's own result is {tuple(handed.shape)}, that of what was read "
            f"{tuple(own.shape)}"
        )
    shares = []
    for i, recurrence in enumerate(recurrences):
        silent = [*outputs[:i], recurrence.without_state(), *outputs[i + 1 :]]
        without = adapter.hand_on(module, call, silent)
        assert without is not None
        shares.append(own - project(without))
    return _compared(handed, own, shares, holds_rounded)


def _handed_on(adapter: Adapter, module: Any, call: LayerCall) -> tuple[Any, Tensor | None]:
    """What to make of a prediction, and what to compare it with.

    The input of the output projection; where a fused kernel goes round that, or there is none, the
    layer's output.
    """
    name = adapter.projection
    if name is not None and name in call.seen:
        return lambda y: y, call.seen[name].input
    if name is None:
        return lambda y: y, call.output
    projection = getattr(module, name)

    def project(y: Tensor) -> Tensor:
        projected: Tensor = projection(y.to(projection.weight.dtype))
        return projected

    return project, call.output


def _compared(handed: Tensor, own: Tensor, shares: Sequence[Tensor], holds_rounded: bool) -> Replay:
    noise = _NOISE.get(handed.dtype, _NOISE[torch.float32])
    in_half = handed.dtype in _HALF or holds_rounded
    tolerance = TOLERANCE_IN_HALF if in_half else TOLERANCE
    observed, predicted = _rows(handed), _rows(own)
    finite = torch.isfinite(observed).all(-1), torch.isfinite(predicted).all(-1)
    if float((finite[0] != finite[1]).double().mean()) > 0.01:
        return unread("what was read overflows where the layer does not, or the other way round")
    usable = finite[0] & finite[1]
    if not bool(usable.any()):
        return unread(NOTHING_FINITE)
    observed, predicted = observed[usable], predicted[usable]
    difference = (observed - predicted).norm(dim=0)
    size = noise * predicted.norm(dim=0)
    worst, total = 0.0, float("inf")
    for share in shares:
        contributed = torch.nan_to_num(_rows(share)[usable])
        total = min(total, float(contributed.norm()))
        excess = (difference - size).clamp_min(0.0) / contributed.norm(dim=0).clamp_min(_TINY)
        worst = max(worst, float(excess.max()))
    relative = float(difference.norm()) / max(total, _TINY)
    reason = None
    if total <= float(size.norm()) and float(difference.norm()) <= float(size.norm()):
        return NOT_COMPARED  # what the state does is lost in rounding
    if worst > tolerance:
        reason = (
            "what was read, run again, does not give the layer's own result: it differs by "
            f"{worst:.2g} of what the state contributes, in the channel where it differs most; "
            f"{tolerance:g} is allowed"
        )
    return Replay(relative, worst, tolerance, reason)


def _rows(x: Tensor) -> Tensor:
    return x.double().reshape(-1, x.shape[-1])

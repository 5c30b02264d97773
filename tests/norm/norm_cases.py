"""Gated norms of many shapes, and what they should give: float64 autograd of the definition."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keelback.norm._operands import NormOperands, NormOptions
from keelback.norm.reference import gated_rms_norm_reference

#: Relative errors of a whole tensor.
TOLERANCE = {
    torch.float32: 1e-6,
    torch.float64: 1e-13,
    torch.bfloat16: 5e-3,
    torch.float16: 8e-4,
}
NAMES = ("y", "dx", "dgate", "dweight")

Norm = Callable[..., Tensor]


@dataclass(frozen=True)
class NormCase:
    """Sizes and options; between rows of x and the gate lie others' numbers, as in a projection.

    `rows` are the axes before the channels, and `replicas` an axis before those, with weights for
    each of them. Where `mixed` is set, the gate or the weight has a dtype of its own.
    """

    channels: int = 64
    rows: tuple[int, ...] = (3, 7)
    group_size: int | None = None
    dtype: torch.dtype = torch.float32
    gated: bool = True
    weighted: bool = True
    norm_before_gate: bool = False
    activation: str = "silu"
    rounded: bool = False
    promoted: bool = False
    gate: torch.dtype | None = None
    weight: torch.dtype | None = None
    gap: int = 0
    replicas: int = 0

    def operands(self, device: str = "cpu") -> tuple[NormOperands[Tensor], Tensor]:
        """Those of the norm, and the gradient of the output."""
        generator = torch.Generator().manual_seed(self.channels)

        def normal(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype)

        before = (self.replicas,) if self.replicas else ()
        shape = (*before, *self.rows, 2 * self.channels + 2 * self.gap)
        projected = normal(*shape, dtype=self.dtype)
        x = projected[..., self.gap : self.gap + self.channels]
        gate = projected[..., -self.channels :].to(self.gate or self.dtype)
        weight = normal(*before, self.channels, dtype=self.weight or self.dtype)
        given = NormOperands(x, gate if self.gated else None, weight if self.weighted else None)
        wider = self.promoted and self.weighted
        out = torch.promote_types(self.dtype, weight.dtype) if wider else self.dtype
        return given, normal(*x.shape, dtype=out)

    @property
    def options(self) -> NormOptions:
        """As the operator has them."""
        return NormOptions(
            1e-5,
            self.group_size or 0,
            self.norm_before_gate,
            self.activation == "sigmoid",
            self.rounded,
            self.promoted,
        )


def defined(case: NormCase, given: NormOperands[Tensor]) -> Tensor:
    """The definition, replica by replica; without roundings, where the operands are float64."""

    def one(x: Tensor, gate: Tensor | None, weight: Tensor | None) -> Tensor:
        return gated_rms_norm_reference(
            x, gate, weight, 1e-5, case.group_size, case.norm_before_gate, case.activation
        )

    if not case.replicas:
        return one(*given)
    return torch.stack(
        [one(*(None if x is None else x[r] for x in given)) for r in range(case.replicas)]
    )


def expected_of(case: NormCase, device: str = "cpu") -> dict[str, Tensor]:
    """Output and gradients in float64."""
    given, dy = case.operands(device)
    precise: Any = NormOperands(*(x if x is None else x.double().requires_grad_() for x in given))
    y = defined(case, precise)
    leaves = [x for x in precise if x is not None]
    found = iter(torch.autograd.grad(y, leaves, dy.double()))
    return _named(y.detach(), [None if x is None else next(found) for x in given])


def _named(y: Tensor, gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
    found = zip(NAMES, (y, *gradients), strict=True)
    return {name: x for name, x in found if x is not None}


def errors_of(
    case: NormCase, norm: Callable[[NormOperands[Tensor], Tensor, NormOptions], Any], device: str
) -> dict[str, float]:
    """Relative errors of output and gradients, by name.

    Args:
        norm: From operands, the gradient of the output and options: output and gradients.
    """
    given, dy = case.operands(device)
    found = _named(*norm(given, dy, case.options))
    expected = expected_of(case, device)
    assert set(found) == set(expected)
    dtypes = _named(dy, list(given))
    for name, x in found.items():
        assert x.dtype == dtypes[name].dtype, name
        assert x.shape == expected[name].shape, name
    return {
        name: float((x.double() - expected[name]).norm() / expected[name].norm().clamp_min(1e-30))
        for name, x in found.items()
    }


def tolerance(case: NormCase) -> float:
    """What is allowed of `errors_of`: twice as much where there are roundings in between."""
    dtypes = [case.dtype, case.gate, case.weight]
    least = max(TOLERANCE[dtype] for dtype in dtypes if dtype is not None)
    return least * (2 if case.rounded else 1)

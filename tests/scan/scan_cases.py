"""Scans to test with: operands drawn by shape, and the comparison with the float64 reference."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from keelback.scan import selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


@dataclass(frozen=True)
class Case:
    batch: int = 2
    length: int = 37
    groups: int = 1
    channels_per_group: int = 4
    state: int = 4
    shared_delta: bool = False
    optional: bool = True
    softplus: bool = True
    resets: bool = False
    rate: float = -1.0
    delta_scale: float = 1.0
    seed: int = 0

    @property
    def channels(self) -> int:
        return self.groups * self.channels_per_group

    def operands(self) -> dict[str, Tensor]:
        """float64 operands whose values are exact in float32."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator)

        rows, state = (self.batch, self.length), self.state
        delta = normal(*rows, 1 if self.shared_delta else self.channels)
        if not self.softplus:
            delta = delta.abs()
        drawn = {
            "u": normal(*rows, self.channels),
            "delta": delta * self.delta_scale,
            "A": self.rate * torch.rand(self.channels, state, generator=generator),
            "B": normal(*rows, self.groups, state),
            "C": normal(*rows, self.groups, state),
        }
        if self.optional:
            drawn |= {
                "D": normal(self.channels),
                "z": normal(*rows, self.channels),
                "delta_bias": normal(self.channels),
                "initial_state": normal(self.batch, self.channels, state),
            }
        if self.optional and not self.softplus:
            drawn["delta_bias"].abs_()
        return {name: x.double() for name, x in drawn.items()}

    def reset_mask(self) -> Tensor | None:
        if not self.resets:
            return None
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.rand(self.batch, self.length, generator=generator) < 0.1

    def like(self, **changes: object) -> "Case":
        return replace(self, **changes)  # type: ignore[arg-type]


def outputs_and_gradients(case: Case, backend: str | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """y, the last state, and the gradient of a random functional of both in every operand."""
    operands = {name: x.to(dtype).requires_grad_() for name, x in case.operands().items()}
    y, last_state = selective_scan(
        **operands,
        delta_softplus=case.softplus,
        return_last_state=True,
        reset=case.reset_mask(),
        backend=backend,
    )
    generator = torch.Generator().manual_seed(case.seed + 2)
    weights = [
        torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype)
        for x in (y, last_state)
    ]
    gradients = torch.autograd.grad(
        [y, last_state], list(operands.values()), weights, materialize_grads=True
    )
    named = dict(zip(operands, gradients, strict=True))
    return {"y": y.detach(), "last_state": last_state.detach()} | named


def relative_errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Norm of each difference over the norm of what is expected."""
    return {
        name: float((found[name].double() - x).norm() / x.norm().clamp_min(1e-30))
        for name, x in expected.items()
    }

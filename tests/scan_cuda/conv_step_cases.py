"""Steps of causal convolutions, and what they should give, in float64."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from cuda_cases import TOLERANCE, relative_error
from torch import Tensor

from keelback.compiled.layouts import layouts_of, signature_of
from keelback.conv.cuda import prepare_step


@dataclass(frozen=True)
class ConvStep:
    """Sizes and types of a step."""

    batch: int = 2
    channels: int = 70
    past: int = 4
    width: int = 4
    dtype: torch.dtype = torch.float32
    kept: torch.dtype | None = None
    weights: torch.dtype | None = None
    bias: bool = True
    silu: bool = True
    axis: bool = False  # of the length, of one step

    def operands(self, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x, state, weight and bias."""
        generator = torch.Generator().manual_seed(0)

        def normal(*size: int, dtype: torch.dtype | None) -> Tensor:
            found = torch.randn(size, generator=generator, dtype=torch.float64)
            return found.to(device, dtype or self.dtype)

        x = normal(self.batch, self.channels, *([1] if self.axis else []), dtype=self.dtype)
        return (
            x,
            normal(self.batch, self.channels, self.past, dtype=self.kept),
            normal(self.channels, self.width, dtype=self.weights),
            normal(self.channels, dtype=self.weights) if self.bias else None,
        )


def advanced(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> Tensor | None:
    """The output by the kernel, if it takes the operands; it overwrites the state."""
    call = prepare_step(layouts_of(signature_of((x, state, weight, bias))), silu)
    return call and call.run(x, state, weight, bias)


def require_exact(
    x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> None:
    """The kernel's step is that of the definition, and shifts the state."""
    recent = torch.cat([state.double(), x.double().reshape(*state.shape[:2], 1)], dim=-1)
    y = (recent[..., -weight.shape[1] :] * weight.double()).sum(-1)
    y = y if bias is None else y + bias.double()
    found = advanced(x, state, weight, bias, silu)
    assert found is not None
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    exact = (F.silu(y) if silu else y).reshape(x.shape)
    assert relative_error(found.cpu(), exact.cpu()) < TOLERANCE[x.dtype]
    assert torch.equal(state, recent[..., 1:].to(state.dtype))


HALF = torch.bfloat16
CASES = [
    ConvStep(),
    ConvStep(batch=1, channels=1, width=2, past=1, silu=False),
    ConvStep(width=3, past=3, bias=False),
    ConvStep(width=4, past=3, axis=True),
    ConvStep(width=9, past=15),
    ConvStep(dtype=HALF, axis=True),
    ConvStep(dtype=HALF, kept=torch.float32, weights=torch.float32),
    ConvStep(dtype=torch.float32, kept=HALF, weights=HALF),
    ConvStep(dtype=torch.float16, width=2, past=8),
    ConvStep(dtype=torch.float64, past=6),
]

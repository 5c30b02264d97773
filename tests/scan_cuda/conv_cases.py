"""Causal convolutions, and what they should give: float64 autograd of PyTorch's."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from cuda_cases import TOLERANCE
from torch import Tensor

from keelback.compiled.layouts import signature_of
from keelback.conv.cuda.launch import CudaConv, prepare


@dataclass(frozen=True)
class ConvCase:
    """Sizes and options; `gap` numbers lie between the steps of x, as behind a projection.

    Weight and bias are in the dtype that is computed in, or in `tap`, and the bias in `of_bias`.
    `apart` are taps of which those of one step lie side by side, not those of one channel;
    `shared`, those of one replica that serve all.
    """

    replicas: int = 1
    batch: int = 2
    length: int = 45
    channels: int = 16
    width: int = 4
    dtype: torch.dtype = torch.float32
    silu: bool = True
    gap: int = 0
    tap: torch.dtype | None = None
    of_bias: torch.dtype | None = None
    biased: bool = True
    apart: bool = False
    shared: bool = False

    @property
    def tolerance(self) -> float:
        """The relative error that it may have: results are as coarse as what they are of."""
        return max(TOLERANCE[self.dtype], TOLERANCE[self.tap or self.dtype])

    def operands(self, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """x, weight, bias, and the gradient of the output."""
        generator = torch.Generator().manual_seed(0)
        real = self.tap or torch.promote_types(self.dtype, torch.float32)

        def normal(*size: int, dtype: torch.dtype) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64).to(device, dtype)

        rows = (self.replicas, self.batch, self.length)
        x = normal(*rows, self.channels + self.gap, dtype=self.dtype)[..., : self.channels]
        weight = normal(self.replicas, self.channels, self.width, dtype=real)
        bias = normal(self.replicas, self.channels, dtype=self.of_bias or real)
        if self.apart:
            weight = weight.mT.contiguous().mT
        if self.shared:
            weight, bias = (x[:1].expand(x.shape) for x in (weight, bias))
        dy = normal(*rows, self.channels, dtype=self.dtype)
        return x, weight, bias if self.biased else None, dy


def defined(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """The definition, replica by replica."""
    width, channels = weight.shape[-1], x.shape[-1]
    biases = x.new_zeros(len(x), channels) if bias is None else bias
    outputs = [
        F.conv1d(F.pad(x[r].mT, (width - 1, 0)), weight[r, :, None], biases[r], groups=channels).mT
        for r in range(len(x))
    ]
    y = torch.stack(outputs)
    return F.silu(y) if silu else y


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, dy: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """What the kernels make of them: the output and the gradients."""
    given = (x, weight, bias)
    call: CudaConv = prepare(signature_of(given), (silu,))
    return (*call.forward(given, True), *call.backward((dy,), (), given))


def errors_of(case: ConvCase, device: str = "cpu") -> dict[str, float]:
    """Relative errors of the output and the gradients."""
    *given, dy = case.operands(device)
    present = [one for one in given if one is not None]
    precise = [one.detach().double().requires_grad_() for one in present]
    y = defined(*precise, *(() if case.biased else (None,)), case.silu)
    expected = (y.detach(), *torch.autograd.grad(y, precise, dy.double()))
    out, *gradients = convolved(*given, dy, case.silu)
    found = [out, *(one for one in gradients if one is not None)]
    assert [one.dtype for one in found] == [one.dtype for one in (given[0], *present)]
    return {
        name: float((a.double() - b).norm() / b.norm().clamp_min(1e-30))
        for name, a, b in zip(("y", "dx", "dweight", "dbias"), found, expected, strict=False)
    }

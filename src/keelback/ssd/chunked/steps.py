"""The step sizes of a scan, and their gradients."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.ssd._operands import Operands, Options


@dataclass(frozen=True)
class Prologue:
    """The step sizes of a scan (batch, length, heads), and what their gradients need."""

    sizes: Tensor
    raw: Tensor  # with the bias

    @classmethod
    def of(cls, given: Operands[Tensor], options: Options) -> "Prologue":
        """From dt, its bias, softplus and the limits."""
        softplus, low, high = options
        raw = given.dt if given.dt_bias is None else given.dt + given.dt_bias
        sizes = F.softplus(raw) if softplus else raw
        return cls(sizes.clamp(low, high), raw)

    def gradient(self, dsizes: Tensor, options: Options) -> Tensor:
        """Of dt before the bias, from that of the step sizes; there is none at the limits."""
        softplus, low, high = options
        sizes = F.softplus(self.raw) if softplus else self.raw
        inside = (sizes >= low) & (sizes <= high)
        found = dsizes * inside
        return found * torch.sigmoid(self.raw) if softplus else found

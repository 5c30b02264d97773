"""Layers that scan a sequence from both ends: Vision Mamba, and others with a second direction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.audit._recurrence import Recurrence, SelectiveRecurrence
from keelback.audit.adapters.base import (
    Adapter,
    LayerCall,
    convolved,
    first_of,
    has_parts,
    negative_exp,
    wide,
)
from keelback.audit.adapters.mamba import step_sizes

_SHARED = ("conv1d", "x_proj", "dt_proj", "D")


@dataclass(frozen=True)
class _Names:
    """The parts that one direction scans with."""

    A_log: str
    conv1d: str
    x_proj: str
    dt_proj: str
    D: str


class _Direction(Adapter):
    """One direction of a layer, read as Mamba."""

    kind = "mamba"
    watched = ("in_proj",)

    def __init__(self, names: _Names, is_backward: bool) -> None:
        self._names, self._is_backward = names, is_backward

    def matches(self, module: Any) -> bool:
        """Never by itself: it is a part of a layer."""
        return False

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(A_log)` or `-exp(A_b_log)`, one rate per channel."""
        return negative_exp(getattr(module, self._names.A_log))

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """The logarithm of `-A`."""
        return {self._names.A_log: torch.log(-A)}

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of this direction's scan, computed anew from the input projection."""
        x, _ = call.seen["in_proj"].output.chunk(2, dim=-1)
        conv1d, x_proj, dt_proj, D = (
            getattr(module, name)
            for name in (self._names.conv1d, self._names.x_proj, self._names.dt_proj, self._names.D)
        )
        u = convolved(module, x.flip(1) if self._is_backward else x, conv1d)
        state = getattr(module, self._names.A_log).shape[1]
        projected = F.linear(u, x_proj.weight)
        step, B, C = projected.split([projected.shape[-1] - 2 * state, state, state], dim=-1)
        recurrence = SelectiveRecurrence(
            u,
            step_sizes(dt_proj, step),
            self.state_matrix(module),
            B.unsqueeze(-2),
            C.unsqueeze(-2),
            D,
        )
        if self._is_backward:
            recurrence.order = torch.arange(x.shape[1], device=x.device).flip(0)
        return recurrence


class BidirectionalMambaAdapter(Adapter):
    """Vision Mamba's layers, and those that share its names for a second direction.

    Source: Zhu et al. 2024 (arXiv 2401.09417), Algorithm 1. The backward direction has its own
    rates `A_b_log`, and its own convolution, projections and `D` where the layer has parts of these
    names with `_b` behind; else it shares the forward direction's. What the two hand on is their
    sum, each gated, or half of it where the layer divides.
    """

    kind = "mamba"
    watched = ("in_proj",)
    entry = "in_proj"
    parts = (
        *("in_proj", "conv1d", "x_proj", "dt_proj", "A_log", "D", "out_proj", "act"),
        *("A_b_log", "conv1d_b", "x_proj_b", "dt_proj_b", "D_b"),
    )

    def matches(self, module: Any) -> bool:
        """Told by Mamba's parts and `A_b_log`."""
        return has_parts(module, "in_proj", "conv1d", "x_proj", "dt_proj", "A_log", "D", "A_b_log")

    def directions(self, module: Any) -> Mapping[str, Adapter]:
        """Forward and backward."""
        own = (n + "_b" if has_parts(module, n + "_b") else n for n in _SHARED)
        return {
            "forward": _Direction(_Names("A_log", *_SHARED), is_backward=False),
            "backward": _Direction(_Names("A_b_log", *own), is_backward=True),
        }

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """The rates of both directions, forward first."""
        return torch.cat([negative_exp(module.A_log), negative_exp(module.A_b_log)])

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """The forward direction; each has its own adapter (`directions`)."""
        return self.directions(module)["forward"].read(module, call)

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The sum of both directions in the order of the input, times `silu(z)`."""
        forward, backward = outputs
        _, z = call.seen["in_proj"].output.chunk(2, dim=-1)
        both = (forward + backward.flip(1)) * F.silu(wide(z))
        divides = first_of(module, "if_divide_out", "if_devide_out", default=False)
        return both / 2 if divides else both

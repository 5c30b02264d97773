"""Layers that scan an image in four directions: SS2D of VMamba and of what was built on it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from keelback.audit._recurrence import Recurrence, SelectiveRecurrence
from keelback.audit.adapters.base import Adapter, LayerCall, has_parts, negative_exp, wide

DIRECTIONS = ("rows", "columns", "rows reversed", "columns reversed")


class _Direction(Adapter):
    """One of the four directions, read as Mamba."""

    kind = "mamba"
    watched = ("in_proj", "conv2d")

    def __init__(self, index: int) -> None:
        self._index = index

    def matches(self, module: Any) -> bool:
        """Never by itself: it is a part of a layer."""
        return False

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(A_logs)` of this direction, one rate per channel."""
        return negative_exp(_of(module, module.A_logs, self._index))

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """`A_logs` with this direction's part replaced by the logarithm of `-A`."""
        every = list(module.A_logs.view(len(DIRECTIONS), *A.shape))
        every[self._index] = torch.log(-A)
        return {"A_logs": torch.stack(every).reshape(module.A_logs.shape)}

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of this direction's scan from what the convolution gave."""
        image = module.act(call.seen["conv2d"].output)
        order = order_of(self._index, *image.shape[2:]).to(image.device)
        u = image.flatten(2).transpose(1, 2)[:, order]
        projected = F.linear(u, module.x_proj_weight[self._index])
        bias = getattr(module, "x_proj_bias", None)
        if bias is not None:
            projected = projected + bias[self._index]
        state = module.A_logs.shape[-1]
        step, B, C = projected.split([projected.shape[-1] - 2 * state, state, state], dim=-1)
        logit = wide(F.linear(step, module.dt_projs_weight[self._index]))
        recurrence = SelectiveRecurrence(
            u,
            F.softplus(logit + wide(_of(module, module.dt_projs_bias, self._index)).flatten()),
            self.state_matrix(module),
            B.unsqueeze(-2),
            C.unsqueeze(-2),
            _of(module, module.Ds, self._index).flatten(),
        )
        recurrence.order = order
        return recurrence


def _of(module: Any, every: Tensor, index: int) -> Tensor:
    """The part of a parameter that belongs to one direction, directions outermost."""
    channels = every.numel() // len(DIRECTIONS)
    part = every.reshape(len(DIRECTIONS), channels)[index]
    return part.view(-1, every.shape[-1]) if every is module.A_logs else part


def order_of(direction: int, height: int, width: int) -> Int[Tensor, " length"]:
    """Where each position of a direction's scan lies in the image, row by row."""
    rows = torch.arange(height * width).view(height, width)
    order = rows.T.flatten() if direction % 2 else rows.flatten()
    return order.flip(0) if direction >= 2 else order


class CrossScanAdapter(Adapter):
    """SS2D: each channel is scanned along rows and columns, from both ends.

    Source: Liu et al. 2024 (VMamba, arXiv 2401.10166), Section 4.2. The four scans have their own
    rates, projections and `D`; what they give is summed, normalised and gated. The layer's input
    is `(batch, height, width, d_model)`.
    """

    kind = "mamba"
    watched = ("in_proj", "conv2d")
    entry = "in_proj"
    parts = (
        *("in_proj", "conv2d", "act", "x_proj_weight", "x_proj_bias", "dt_projs_weight"),
        *("dt_projs_bias", "A_logs", "Ds", "out_norm", "out_proj"),
    )

    def matches(self, module: Any) -> bool:
        """Told by `conv2d`, `x_proj_weight`, `dt_projs_weight` and `A_logs` of four directions."""
        return (
            has_parts(module, "in_proj", "conv2d", "x_proj_weight", "dt_projs_weight")
            and has_parts(module, "A_logs", "Ds", "dt_projs_bias", "act")
            and len(module.x_proj_weight) == len(DIRECTIONS)
        )

    def directions(self, module: Any) -> Mapping[str, Adapter]:
        """Rows, columns, and both reversed."""
        return {name: _Direction(i) for i, name in enumerate(DIRECTIONS)}

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """The rates of all directions, one after another."""
        return negative_exp(module.A_logs.reshape(-1, module.A_logs.shape[-1]))

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """The first direction; each has its own adapter (`directions`)."""
        return _Direction(0).read(module, call)

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The layer's norm of the sum, each direction put back in place, times `silu(z)`."""
        image = call.seen["conv2d"].output
        height, width = image.shape[2:]
        total = torch.zeros_like(outputs[0])
        for i, y in enumerate(outputs):
            order = order_of(i, height, width).to(y.device)
            total.index_add_(1, order, y)
        y = total.view(total.shape[0], height, width, -1)
        norm = getattr(module, "out_norm", None)
        normed = y if norm is None else norm(y.to(next(norm.parameters()).dtype))
        projected = call.seen["in_proj"].output
        if projected.shape[-1] == 2 * image.shape[1]:
            normed = normed * F.silu(projected.chunk(2, dim=-1)[1])
        return normed

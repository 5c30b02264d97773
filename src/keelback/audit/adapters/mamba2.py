"""Mamba-2: one rate per head, step sizes straight from the input projection."""

from collections.abc import Mapping, Sequence
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


class Mamba2Adapter(Adapter):
    """Mamba-2, Bamba, Zamba-2, NemotronH, FalconH1 and GraniteMoeHybrid; `Mamba2` in mamba_ssm.

    Source: Dao and Gu 2024 (arXiv 2405.21060). The input projection ends in z, x, B, C (the last
    three convolved together) and one step size per head.
    """

    kind = "mamba2"
    watched = ("in_proj",)
    entry = "in_proj"
    parts = ("in_proj", "conv1d", "dt_bias", "A_log", "D", "norm", "out_proj", "act")

    def matches(self, module: Any) -> bool:
        """Told by one `in_proj`, a `conv1d`, and vectors `A_log`, `dt_bias`, `D`."""
        return has_parts(module, "in_proj", "conv1d", "A_log", "dt_bias", "D")

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(A_log)`, one rate per head, shared by its states."""
        return negative_exp(module.A_log)[:, None]

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """`A_log = log(-A)`."""
        return {"A_log": torch.log(-A[:, 0])}

    def edit_steps(self, module: Any, factor: Tensor) -> Mapping[str, Tensor]:
        """A grows by the factor, D shrinks, and the norm after the scan hides that all else grew.

        `factor * C . h + D u = factor * (C . h + (D / factor) u)`; a layer without that norm (an
        option of FalconH1) has it in the output projection.
        """
        edits = {"A_log": module.A_log + torch.log(factor), "D": module.D / factor}
        normed = has_norm(module)
        return edits if normed else edits | {"out_proj.weight": module.out_proj.weight * factor}

    def replay(self, module: Any, call: LayerCall) -> None:
        """Project the layer's input, scaled first where the model scales it (FalconH1)."""
        scale = getattr(module, "ssm_in_multiplier", 1.0)
        module.in_proj(call.masked(call.hidden_states) * scale)

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of the scan from what `in_proj` gave."""
        _, x_B_C, step = _projected(module, call)
        x_B_C = call.masked(convolved(module, x_B_C))
        groups = first_of(module, "n_groups", "ngroups")
        state = first_of(module, "ssm_state_size", "d_state")
        inner = x_B_C.shape[-1] - 2 * groups * state
        x, B, C = x_B_C.split([inner, *[groups * state] * 2], dim=-1)
        low, high = first_of(module, "time_step_limit", "dt_limit", default=(0.0, float("inf")))
        return SelectiveRecurrence(
            x,
            F.softplus(wide(step) + wide(module.dt_bias)).clamp(low, high),
            self.state_matrix(module),
            B.unflatten(-1, (groups, state)),
            C.unflatten(-1, (groups, state)),
            module.D.repeat_interleave(x.shape[-1] // module.D.numel()),
        )

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The layer's own norm of y and its gate, or `y silu(z)` where it has none."""
        (y,) = outputs
        z, _, _ = _projected(module, call)
        return module.norm(y, z) if has_norm(module) else y * F.silu(wide(z))


def has_norm(module: Any) -> bool:
    """Whether a norm follows the scan."""
    norm = getattr(module, "norm", None)
    return norm is not None and any(True for _ in norm.parameters())


def _projected(module: Any, call: LayerCall) -> tuple[Tensor, Tensor, Tensor]:
    """The gate, what is convolved, and the step sizes, which stand last in the projection."""
    projected = call.seen["in_proj"].output
    projected = projected * getattr(module, "mup_vector", 1.0)
    conv_width, heads = module.conv1d.weight.shape[0], module.A_log.shape[0]
    groups = first_of(module, "n_groups", "ngroups")
    state = first_of(module, "ssm_state_size", "d_state")
    widths = [conv_width - 2 * groups * state, conv_width, heads]
    z, x_B_C, step = projected[..., -sum(widths) :].split(widths, dim=-1)
    return z, x_B_C, step

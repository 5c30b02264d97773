"""Mamba-2: one rate a head, step sizes straight from the input projection."""

from collections.abc import Mapping
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
    has_parts,
    negative_exp,
)


class Mamba2Adapter(Adapter):
    """Mamba-2, Bamba, Zamba-2, NemotronH, FalconH1 and GraniteMoeHybrid; `Mamba2` in mamba_ssm.

    Source: Dao and Gu 2024 (arXiv 2405.21060). The input projection ends in x, B, C (convolved
    together) and one step size a head.
    """

    kind = "mamba2"
    watched = ("in_proj",)

    def matches(self, module: Any) -> bool:
        """Told by one `in_proj`, a `conv1d`, and vectors `A_log`, `dt_bias`, `D`."""
        return has_parts(module, "in_proj", "conv1d", "A_log", "dt_bias", "D")

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(A_log)`, one rate a head, shared by its states."""
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
        normed = any(True for _ in module.norm.parameters())
        return edits if normed else edits | {"out_proj.weight": module.out_proj.weight * factor}

    def replay(self, module: Any, call: LayerCall) -> None:
        """Project the layer's input, scaled first where the model scales it (FalconH1)."""
        scale = getattr(module, "ssm_in_multiplier", 1.0)
        module.in_proj(call.masked(call.hidden_states) * scale)

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of the scan from what `in_proj` gave."""
        projected = call.seen["in_proj"].output
        projected = projected * getattr(module, "mup_vector", 1.0)
        heads = module.A_log.shape[0]
        conv_width = module.conv1d.weight.shape[0]
        x_B_C, step = projected[..., -(conv_width + heads) :].split([conv_width, heads], dim=-1)
        x_B_C = call.masked(convolved(module, x_B_C))
        groups = _first(module, "n_groups", "ngroups")
        state = _first(module, "ssm_state_size", "d_state")
        x, B, C = x_B_C.split([conv_width - 2 * groups * state, *[groups * state] * 2], dim=-1)
        low, high = _first(module, "time_step_limit", "dt_limit", default=(0.0, float("inf")))
        return SelectiveRecurrence(
            x,
            F.softplus(step.float() + module.dt_bias.float()).clamp(low, high),
            self.state_matrix(module),
            B.unflatten(-1, (groups, state)),
            C.unflatten(-1, (groups, state)),
            module.D.repeat_interleave(x.shape[-1] // module.D.numel()),
        )


def _first(module: Any, *names: str, default: Any = None) -> Any:
    for name in names:
        if getattr(module, name, None) is not None:
            return getattr(module, name)
    return default

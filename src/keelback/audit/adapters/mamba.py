"""Mamba: one rate per channel, step sizes from a low-rank projection."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from keelback.audit._recurrence import Recurrence, SelectiveRecurrence
from keelback.audit.adapters.base import (
    Adapter,
    LayerCall,
    convolved,
    has_parts,
    negative_exp,
    wide,
)


class MambaAdapter(Adapter):
    """Mamba, FalconMamba and Jamba in transformers; `Mamba` in mamba_ssm; others with these parts.

    Source: Gu and Dao 2023 (arXiv 2312.00752), Algorithm 2. Where the layer normalises its step
    sizes, B and C (FalconMamba, Jamba), so does the adapter, with the layer's own modules.
    """

    kind = "mamba"
    watched = ("in_proj", "x_proj")
    entry = "in_proj"
    parts = (
        *("in_proj", "conv1d", "x_proj", "dt_proj", "A_log", "D", "out_proj", "act"),
        *("dt_layernorm", "b_layernorm", "c_layernorm", "B_layernorm", "C_layernorm"),
    )

    def matches(self, module: Any) -> bool:
        """Told by `x_proj`, `dt_proj` and a matrix `A_log`."""
        return has_parts(
            module, "in_proj", "conv1d", "x_proj", "dt_proj", "A_log", "D"
        ) and not has_parts(module, "A_b_log")

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(A_log)`, one rate per channel."""
        return negative_exp(module.A_log)

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """`A_log = log(-A)`."""
        return {"A_log": torch.log(-A)}

    def edit_steps(self, module: Any, factor: Tensor) -> Mapping[str, Tensor]:
        """A and B grow by the factor: B in `x_proj`, or in its norm, or else after the scan.

        `factor * C . h + D u = factor * (C . h + (D / factor) u)`, and all that follows is linear.
        """
        A_log = {"A_log": module.A_log + torch.log(factor)}
        norm = next((n for n in ("b_layernorm", "B_layernorm") if hasattr(module, n)), None)
        if norm is None:
            state = module.A_log.shape[1]
            weight = module.x_proj.weight
            scale = torch.ones_like(weight[:, :1])
            rows = torch.arange(len(weight), device=weight.device).unsqueeze(-1)
            is_B = (rows >= len(weight) - 2 * state) & (rows < len(weight) - state)
            return A_log | {"x_proj.weight": weight * torch.where(is_B, factor, scale)}
        weight = getattr(module, norm).weight
        if isinstance(weight, nn.Parameter):
            return A_log | {f"{norm}.weight": weight * factor}
        return A_log | {"D": module.D / factor, "out_proj.weight": module.out_proj.weight * factor}

    def replay(self, module: Any, call: LayerCall) -> None:
        """Convolve the first half of the input projection, as a fused kernel does unseen."""
        projected = module.in_proj(call.masked(call.hidden_states))
        x, _ = projected.chunk(2, dim=-1)
        module.x_proj(call.masked(convolved(module, x)))

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of the scan from what `x_proj` was given and what it gave."""
        u, projected = (x.reshape(*call.hidden_states.shape[:2], -1) for x in call.seen["x_proj"])
        state = module.A_log.shape[1]
        step, B, C = projected.split([projected.shape[-1] - 2 * state, state, state], dim=-1)
        step = _normalised(module, step, "dt_layernorm")
        B = _normalised(module, B, "b_layernorm", "B_layernorm")
        C = _normalised(module, C, "c_layernorm", "C_layernorm")
        return SelectiveRecurrence(
            u,
            step_sizes(module.dt_proj, step),
            self.state_matrix(module),
            B.unsqueeze(-2),
            C.unsqueeze(-2),
            module.D,
        )

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """`y silu(z)`, z being the second half of the input projection."""
        (y,) = outputs
        _, z = call.seen["in_proj"].output.chunk(2, dim=-1)
        return y * F.silu(wide(z))


def step_sizes(dt_proj: Any, step: Tensor) -> Tensor:
    """`softplus` of the low-rank projection of the step sizes."""
    logit = wide(F.linear(step, dt_proj.weight))
    if dt_proj.bias is not None:
        logit = logit + wide(dt_proj.bias)
    return F.softplus(logit)


def _normalised(module: Any, x: Tensor, *names: str) -> Tensor:
    for name in names:
        norm = getattr(module, name, None)
        if norm is not None:
            return norm(x)
    return x


class MultiHeadMambaAdapter(Adapter):
    """Zamba's Mamba: channels in heads, each with its own projections to step sizes, B and C."""

    kind = "mamba"
    watched = ("in_proj",)
    entry = "in_proj"
    parts = (
        *("in_proj", "conv1d", "x_proj_weight", "dt_proj_weight", "dt_proj_bias"),
        *("A_log", "D", "out_proj", "act"),
    )

    def matches(self, module: Any) -> bool:
        """Told by `x_proj_weight` and `dt_proj_weight` with a leading head axis."""
        return has_parts(module, "in_proj", "conv1d", "x_proj_weight", "dt_proj_weight", "A_log")

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(A_log)`, heads flattened into channels."""
        return negative_exp(module.A_log.flatten(0, 1))

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """`A_log = log(-A)`, heads unfolded."""
        return {"A_log": torch.log(-A).reshape(module.A_log.shape)}

    def edit_steps(self, module: Any, factor: Tensor) -> Mapping[str, Tensor]:
        """A and what follows the scan grow by the factor, D in it shrinks."""
        return {
            "A_log": module.A_log + torch.log(factor),
            "D": module.D / factor,
            "out_proj.weight": module.out_proj.weight * factor,
        }

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Inputs of the heads' scans, one group of B and C per head; x and z alternate."""
        x_weight, dt_weight = module.x_proj_weight, module.dt_proj_weight
        dt_bias, state = module.dt_proj_bias, module.A_log.shape[-1]
        heads = len(x_weight)
        x = call.seen["in_proj"].output[..., ::2]
        u = call.masked(convolved(module, x))
        u_heads = u.unflatten(-1, (heads, -1))
        parameters = torch.einsum("blhc,hpc->blhp", u_heads, x_weight)
        step, B, C = parameters.split([parameters.shape[-1] - 2 * state, state, state], dim=-1)
        logit = wide(torch.einsum("blhr,hcr->blhc", step, dt_weight)) + wide(dt_bias)
        return SelectiveRecurrence(
            u,
            F.softplus(logit).flatten(-2),
            self.state_matrix(module),
            B,
            C,
            module.D.flatten(),
        )

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """`y silu(z)`, z being every second output of the input projection."""
        (y,) = outputs
        return y * F.silu(wide(call.seen["in_proj"].output[..., 1::2]))

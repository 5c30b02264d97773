"""Mamba-3: one rate per head, states that turn, and writes shared between two steps."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from keelback.audit._recurrence import Recurrence
from keelback.audit._trapezoidal import TrapezoidalRecurrence
from keelback.audit.adapters.base import (
    Adapter,
    LayerCall,
    first_of,
    has_parts,
    negative_exp,
    wide,
)


class _Projected(NamedTuple):
    """What the input projection of `Mamba3` gives, in its order."""

    z: Tensor
    x: Tensor
    B: Tensor
    C: Tensor
    step: Tensor
    rate: Tensor
    share: Tensor
    angles: Tensor


class Mamba3Adapter(Adapter):
    """`Mamba3` in mamba_ssm and in fla, with one input and output per step or several (MIMO).

    Both the step size and the rate are computed from each token, so that no weight holds a rate by
    itself: there is nothing to edit. A is -1, and delta minus the log decay. Source: Lahoti et al.
    2026 (arXiv 2603.15569).
    """

    kind = "mamba3"
    watched = ("in_proj",)
    entry = "in_proj"
    parts = (
        *("in_proj", "dt_bias", "B_bias", "C_bias", "B_norm", "C_norm", "D", "norm", "out_proj"),
        *("mimo_x", "mimo_z", "mimo_o"),
    )
    decays_because = "the rate is minus an activation that is above 0"

    def matches(self, module: Any) -> bool:
        """Told by its projection, biases and norms of B and C, and the floor of its rates."""
        names = ("in_proj", "dt_bias", "B_bias", "C_bias", "B_norm", "C_norm", "D", "out_proj")
        return has_parts(module, *names, "A_floor", "num_rope_angles")

    def always_decays(self, module: Any) -> bool:
        """Rates are clamped to at most minus the floor."""
        return bool(module.A_floor > 0)

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """-1 in each head: the log decay alone says how fast it forgets."""
        return -torch.ones(module.dt_bias.numel(), 1, device=module.dt_bias.device)

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Operands of the kernels from what `in_proj` gave.

        A kernel turns B and C forwards, which turns the states backwards. That for several inputs
        pairs the states of the first half with those of the second.
        """
        own = _projected(module, call)
        dt = F.softplus(wide(own.step) + wide(module.dt_bias))
        A = self.state_matrix(module)
        turns = torch.pi * torch.tanh(wide(own.angles)).unsqueeze(-2)
        B, C = (
            _maps(module, x, norm, bias)
            for x, norm, bias in (
                (own.B, module.B_norm, module.B_bias),
                (own.C, module.C_norm, module.C_bias),
            )
        )
        return TrapezoidalRecurrence(
            _inputs(module, own),
            dt,
            -dt * _rates(module, own.rate),
            A,
            B,
            C,
            torch.sigmoid(wide(own.share)),
            -turns * dt.unsqueeze(-1),
        )

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """With the skip connection: the layer's norm and gate, and ranks summed up."""
        own = _projected(module, call)
        x = wide(_inputs(module, own))
        y = outputs[0].reshape(x.shape) + wide(module.D)[:, None, None] * x
        heads, head_dim = module.dt_bias.numel(), x.shape[-1]
        z = wide(own.z).unflatten(-1, (heads, 1, head_dim))
        if module.is_mimo:
            z = z * wide(module.mimo_z)
        y, z = (one.transpose(2, 3).flatten(3) for one in (y, z))  # heads and channels last
        y = module.norm(y, z) if module.is_outproj_norm else y * F.silu(z)
        if not module.is_mimo:
            return y.squeeze(2)
        shares = wide(module.mimo_o).transpose(0, 1).flatten(1)
        return (wide(y) * shares).sum(2)


def _projected(module: Any, call: LayerCall) -> _Projected:
    """Of a layer that strikes out padding and packs what is left, only what had none is told."""
    given = call.seen["in_proj"].output
    given = given.reshape(*call.hidden_states.shape[:2], -1)
    heads, rank = module.dt_bias.numel(), module.B_bias.shape[1]
    groups = first_of(module, "num_bc_heads", "n_groups")
    maps = rank * groups * module.B_bias.shape[-1]
    inner = module.out_proj.weight.shape[1]
    widths = [inner, inner, maps, maps, heads, heads, heads, module.num_rope_angles]
    return _Projected(*given.split(widths, dim=-1))


def _inputs(module: Any, own: _Projected) -> Float[Tensor, "batch length heads rank head_dim"]:
    x = own.x.unflatten(-1, (module.dt_bias.numel(), 1, -1))
    return x * module.mimo_x.to(x.dtype) if module.is_mimo else x


def _rates(module: Any, logits: Tensor) -> Tensor:
    """The activation that the layer's own code has: mamba_ssm changed it from a softplus."""
    if hasattr(module, "_compute_a"):
        return wide(module._compute_a(logits))
    code = sys.modules.get(type(module).__module__)
    activation = getattr(code, "heavy_tail_activation", F.softplus)
    return -activation(wide(logits)).clamp_min(module.A_floor)


def _maps(
    module: Any, x: Tensor, norm: Any, bias: Float[Tensor, "heads rank state"]
) -> Float[Tensor, "batch length heads rank state"]:
    """B or C, normalised, with the bias of each head; pairs that turn stand side by side."""
    heads, rank, state = bias.shape
    x = norm(x.unflatten(-1, (rank, -1, state))).transpose(2, 3)
    x = wide(x.repeat_interleave(heads // x.shape[2], dim=2)) + wide(bias)
    if not module.is_mimo:
        return x
    return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


class ReferenceMamba3Adapter(Adapter):
    """The blocks of the package torchmamba, with one input per step or several.

    `delta` is the step size, which does not multiply what is written there.
    """

    kind = "mamba3"
    watched = ("in_proj_xz", "in_proj_bcdt_theta")
    entry = "in_proj_xz"
    parts = (
        *(*watched, "bc_norm_weight", "bc_bias", "A_log", "out_proj"),
        *("bc_rank_proj", "x_expand", "z_expand", "out_contract"),
    )

    def matches(self, module: Any) -> bool:
        """Told by its two projections and `A_log`."""
        return has_parts(
            module, *self.watched, "bc_norm_weight", "bc_bias", "A_log", "n_groups", "d_state"
        )

    def always_decays(self, module: Any) -> bool:
        """A is minus an exponential."""
        return True

    def state_matrix(self, module: Any) -> Float[Tensor, "rates state"]:
        """`-exp(A_log)`, one rate per head."""
        return negative_exp(module.A_log)[:, None]

    def edit_rates(self, module: Any, A: Float[Tensor, "rates state"]) -> Mapping[str, Tensor]:
        """`A_log = log(-A)`."""
        return {"A_log": torch.log(-A[:, 0])}

    def read(self, module: Any, call: LayerCall) -> Recurrence:
        """Operands of the loop; B and C are turned forwards, which turns the states backwards."""
        groups, state, heads = module.n_groups, module.d_state, module.A_log.numel()
        joined = wide(call.seen["in_proj_bcdt_theta"].output)
        widths = [2 * groups * state, heads, heads * (state // 2)]
        B_C, step, angles = joined.split(widths, dim=-1)
        B_C = F.rms_norm(B_C, B_C.shape[-1:], wide(module.bc_norm_weight), eps=1e-6)
        B, C = (B_C + wide(module.bc_bias)).chunk(2, dim=-1)
        if hasattr(module, "bc_rank_proj"):
            B, C = (
                module.bc_rank_proj(one.to(module.bc_rank_proj.weight.dtype))
                .unflatten(-1, (groups, state, -1))
                .transpose(-1, -2)
                for one in (B, C)
            )
        else:
            B, C = (one.unflatten(-1, (groups, 1, state)) for one in (B, C))
        delta = F.softplus(step)
        return TrapezoidalRecurrence(
            self._by_rank(module, call, 0, "x_expand"),
            torch.ones_like(delta),
            delta,
            self.state_matrix(module),
            B,
            C,
            torch.sigmoid(delta),
            -F.softplus(angles).unflatten(-1, (heads, -1)),
        )

    def hand_on(self, module: Any, call: LayerCall, outputs: Sequence[Tensor]) -> Tensor:
        """The gate, and ranks summed up."""
        gate = F.silu(wide(self._by_rank(module, call, 1, "z_expand")))
        y = outputs[0].reshape(gate.shape) * gate
        if hasattr(module, "out_contract"):
            y = y * _ranks(module.out_contract, gate.shape[2])
        return y.sum(3).flatten(2)

    @staticmethod
    def _by_rank(
        module: Any, call: LayerCall, half: int, expansion: str
    ) -> Float[Tensor, "batch length heads rank head_dim"]:
        heads = module.A_log.numel()
        x = call.seen["in_proj_xz"].output.chunk(2, dim=-1)[half].unflatten(-1, (heads, 1, -1))
        weights = getattr(module, expansion, None)
        return x if weights is None else x * _ranks(weights, heads).to(x.dtype)


def _ranks(weights: Float[Tensor, "inner rank"], heads: int) -> Tensor:
    return wide(weights).unflatten(0, (heads, -1)).transpose(-1, -2)

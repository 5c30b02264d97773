"""Layers of Mamba-3 and RWKV-7 with the parts of those that others published, by their loops.

The loops are written from the papers' recurrences, step by step in float64.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, HEAD, STATE = 16, 4, 8, 8
INNER = HEADS * HEAD


def heavy_tail_activation(x: Tensor) -> Tensor:
    """1 + x above 0, 1 / (1 - x) below: mamba_ssm's rates; adapters look for it by this name."""
    return x.clamp_min(0) + 1 / (1 - x.clamp_max(0))


def turning_loop(
    x: Tensor, dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, share: Tensor, angles: Tensor
) -> Tensor:
    """Outputs of Mamba-3 in complex numbers, of which the maps are turned and not the states.

    x (batch, length, heads, rank, head_dim); B and C (batch, length, heads, rank, state).
    """
    dtype = x.dtype
    x, dt, log_decay, B, C, share, angles = (
        one.double() for one in (x, dt, log_decay, B, C, share, angles)
    )
    angles = F.pad(angles, (0, STATE // 2 - angles.shape[-1]))
    turned = torch.polar(torch.ones_like(angles), angles.cumsum(1)).unsqueeze(3)
    B, C = (torch.view_as_complex(m.unflatten(-1, (-1, 2)).contiguous()) * turned for m in (B, C))
    h = last = torch.zeros(len(x), HEADS, x.shape[-1], STATE // 2, dtype=torch.complex128)
    outputs = []
    for t in range(x.shape[1]):
        now, before = share[:, t] * dt[:, t], (1 - share[:, t]) * dt[:, t]
        written = x[:, t].mT.to(torch.complex128) @ B[:, t]
        h = log_decay[:, t].exp()[..., None, None] * (h + before[..., None, None] * last)
        h, last = h + now[..., None, None] * written, written
        outputs.append((h @ C[:, t].conj().mT).real.mT)
    return torch.stack(outputs, 1).to(dtype)


class HeadNorm(nn.Module):
    """RMS norm of the last axis by groups, with a gate after it."""

    def __init__(self, width: int, group: int) -> None:
        super().__init__()
        self.weight, self.group = nn.Parameter(torch.rand(width) + 0.5), group

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """One pass."""
        groups = x.unflatten(-1, (-1, self.group))
        normed = F.rms_norm(groups, (self.group,), eps=1e-5).flatten(-2) * self.weight
        return normed if z is None else normed * F.silu(z)


class Mamba3(nn.Module):
    """The layer of mamba_ssm; subclasses change one thing each."""

    def __init__(
        self, rank: int = 0, groups: int = 1, pairs: int = 2, normed: bool = False
    ) -> None:
        super().__init__()
        self.is_mimo, self.is_outproj_norm, self.num_bc_heads = rank > 0, normed, groups
        self.num_rope_angles, self.A_floor = pairs, 1e-4
        rank = max(rank, 1)
        width = 2 * INNER + 2 * STATE * groups * rank + 3 * HEADS + pairs
        self.in_proj = nn.Linear(WIDTH, width, bias=False)
        self.dt_bias = nn.Parameter(torch.randn(HEADS) - 1)
        self.B_bias, self.C_bias = (nn.Parameter(torch.randn(HEADS, rank, STATE)) for _ in "BC")
        self.B_norm, self.C_norm = HeadNorm(STATE, STATE), HeadNorm(STATE, STATE)
        self.D = nn.Parameter(torch.randn(HEADS))
        if self.is_mimo:
            self.mimo_x, self.mimo_z, self.mimo_o = (
                nn.Parameter(torch.randn(HEADS, rank, HEAD)) for _ in "xzo"
            )
        if normed:
            self.norm = HeadNorm(INNER, HEAD)
        self.out_proj = nn.Linear(INNER, WIDTH, bias=False)

    def rates(self, logits: Tensor) -> Tensor:
        """A for each head and step."""
        return -heavy_tail_activation(logits).clamp_min(self.A_floor)

    def share(self, logits: Tensor) -> Tensor:
        """Of the present input."""
        return torch.sigmoid(logits)

    def angles(self, raw: Tensor, dt: Tensor) -> Tensor:
        """By which the maps turn in each step."""
        return torch.pi * torch.tanh(raw).unsqueeze(-2) * dt.unsqueeze(-1)

    def maps(self, x: Tensor, norm: nn.Module, bias: Tensor) -> Tensor:
        """B or C of each head, pairs that turn side by side."""
        x = norm(x.unflatten(-1, (bias.shape[1], self.num_bc_heads, STATE)))
        x = x.repeat_interleave(HEADS // self.num_bc_heads, 3).transpose(2, 3) + bias
        return x.unflatten(-1, (2, -1)).mT.flatten(-2) if self.is_mimo else x

    def forward(self, u: Tensor, inference_params: Any = None) -> Tensor:
        """One pass."""
        maps = self.num_bc_heads * self.B_bias.shape[1] * STATE
        widths = [INNER, INNER, maps, maps, *[HEADS] * 3, self.num_rope_angles]
        z, x, B, C, step, rate, share, angles = self.in_proj(u).split(widths, -1)
        z, x = (one.unflatten(-1, (HEADS, 1, HEAD)) for one in (z, x))
        if self.is_mimo:
            z, x = z * self.mimo_z, x * self.mimo_x
        dt = F.softplus(step + self.dt_bias)
        y = turning_loop(
            x,
            dt,
            dt * self.rates(rate),
            self.maps(B, self.B_norm, self.B_bias),
            self.maps(C, self.C_norm, self.C_bias),
            self.share(share),
            self.angles(angles, dt),
        )
        y = y + self.D[:, None, None] * x
        y, z = (one.transpose(2, 3).flatten(3) for one in (y, z))
        y = self.norm(y, z) if self.is_outproj_norm else y * F.silu(z)
        if self.is_mimo:
            y = y * self.mimo_o.transpose(0, 1).flatten(1)
        return self.out_proj(y.sum(2))


class OfFla(Mamba3):
    """As in flash-linear-attention, whose rates are another activation's."""

    def _compute_a(self, logits: Tensor) -> Tensor:
        return -F.softplus(logits).clamp_min(self.A_floor)

    def rates(self, logits: Tensor) -> Tensor:
        """A for each head and step."""
        return self._compute_a(logits)


class OtherRates(Mamba3):
    """Rates by a softplus that nothing shows."""

    def rates(self, logits: Tensor) -> Tensor:
        """A for each head and step."""
        return -F.softplus(logits).clamp_min(self.A_floor)


class TurnsBackwards(Mamba3):
    """Turns its maps the other way."""

    def angles(self, raw: Tensor, dt: Tensor) -> Tensor:
        """By which the maps turn in each step."""
        return -super().angles(raw, dt)


class SharesSwapped(Mamba3):
    """Gives the past the share of the present."""

    def share(self, logits: Tensor) -> Tensor:
        """Of the present input."""
        return torch.sigmoid(-logits)


class Block(nn.Module):
    """The blocks of torchmamba, with one input per step or several."""

    def __init__(self, rank: int = 0, groups: int = 1) -> None:
        super().__init__()
        self.n_groups, self.d_state = groups, STATE
        self.in_proj_xz = nn.Linear(WIDTH, 2 * INNER)
        width = 2 * groups * STATE + HEADS + HEADS * STATE // 2
        self.in_proj_bcdt_theta = nn.Linear(WIDTH, width)
        self.bc_norm_weight = nn.Parameter(torch.rand(2 * groups * STATE) + 0.5)
        self.bc_bias = nn.Parameter(torch.randn(2 * groups * STATE))
        self.A_log = nn.Parameter(-3 * torch.rand(HEADS))
        if rank:
            self.bc_rank_proj = nn.Linear(groups * STATE, groups * STATE * rank, bias=False)
            self.x_expand, self.z_expand, self.out_contract = (
                nn.Parameter(torch.randn(INNER, rank)) for _ in "xzo"
            )
        self.rank = rank
        self.out_proj = nn.Linear(INNER, WIDTH)

    def forward(self, u: Tensor) -> Tensor:
        """One pass."""
        x, z = (one.unflatten(-1, (HEADS, HEAD, 1)) for one in self.in_proj_xz(u).chunk(2, -1))
        widths = [2 * self.n_groups * STATE, HEADS, HEADS * STATE // 2]
        B_C, step, angles = self.in_proj_bcdt_theta(u).split(widths, -1)
        B_C = F.rms_norm(B_C, B_C.shape[-1:], self.bc_norm_weight, eps=1e-6) + self.bc_bias
        maps = B_C.chunk(2, -1)
        if self.rank:
            maps = tuple(self.bc_rank_proj(one) for one in maps)
            x, z = (
                one * weight.unflatten(0, (HEADS, HEAD))
                for one, weight in ((x, self.x_expand), (z, self.z_expand))
            )
        B, C = (
            one.unflatten(-1, (self.n_groups, STATE, -1))
            .repeat_interleave(HEADS // self.n_groups, 2)
            .mT
            for one in maps
        )
        dt = F.softplus(step)
        log_decay, share = -dt * self.A_log.exp(), dt.sigmoid()
        angles = F.softplus(angles).unflatten(-1, (HEADS, -1))
        y = turning_loop(x.mT, torch.ones_like(dt), log_decay, B, C, share, angles).mT * F.silu(z)
        if self.rank:
            y = y * self.out_contract.unflatten(0, (HEADS, HEAD))
        return self.out_proj(y.sum(-1).flatten(2))


class TimeMixing(nn.Module):
    """RWKV-7's in the form of its authors; subclasses change one thing each."""

    def __init__(self, layer_id: int = 0) -> None:
        super().__init__()
        self.layer_id = layer_id
        for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g"):
            setattr(self, name, nn.Parameter(torch.rand(1, 1, WIDTH)))
        for name in ("w", "a", "v", "g"):
            setattr(self, f"{name}0", nn.Parameter(torch.randn(1, 1, WIDTH)))
            setattr(self, f"{name}1", nn.Parameter(0.5 * torch.randn(WIDTH, 4)))
            setattr(self, f"{name}2", nn.Parameter(0.5 * torch.randn(4, WIDTH)))
        del self.g0
        self.k_k, self.k_a = (nn.Parameter(torch.randn(1, 1, WIDTH)) for _ in "ka")
        self.r_k = nn.Parameter(torch.randn(2, WIDTH // 2))
        for name in ("receptance", "key", "value", "output"):
            setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=False))
        self.ln_x = nn.GroupNorm(2, WIDTH, eps=64e-5)

    def low_rank(self, x: Tensor, name: str, activation: Any = None) -> Tensor:
        """A low-rank layer without its bias."""
        low = x @ getattr(self, f"{name}1")
        return (low if activation is None else activation(low)) @ getattr(self, f"{name}2")

    def decay(self, logits: Tensor) -> Tensor:
        """Log decays, as the authors' code has them."""
        return -torch.exp(-F.softplus(-logits) - 0.5)

    def kappa(self, x: Tensor) -> Tensor:
        """The removal key."""
        return F.normalize(x, dim=-1)

    def bonus(self, r: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """For the present token."""
        return (r * k * self.r_k).sum(-1, keepdim=True) * v

    def forward(self, x: Tensor, v_first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One pass: the output, and the first layer's values."""
        before = F.pad(x, (0, 0, 1, -1))
        mixed = {n: torch.lerp(x, before, getattr(self, f"x_{n}")) for n in "rwkvag"}
        r, k, v = self.receptance(mixed["r"]), self.key(mixed["k"]), self.value(mixed["v"])
        log_decay = self.decay(self.w0 + self.low_rank(mixed["w"], "w", torch.tanh))
        if v_first is None:
            v_first = v
        else:
            v = torch.lerp(v, v_first, (self.v0 + self.low_rank(mixed["v"], "v")).sigmoid())
        a = (self.a0 + self.low_rank(mixed["a"], "a")).sigmoid()
        gate = self.low_rank(mixed["g"], "g", torch.sigmoid)
        removal, k = k * self.k_k, k * (1 + (a - 1) * self.k_a)
        r, k, v, a, removal, log_decay = (
            one.unflatten(-1, (2, -1)) for one in (r, k, v, a, removal, log_decay)
        )
        kappa = self.kappa(removal)
        y = erasing_loop(r, k, v, kappa, a, log_decay)
        y = self.ln_x(y.flatten(0, 1).flatten(1)).view_as(x) + self.bonus(r, k, v).flatten(2)
        return self.output(y * gate), v_first


def erasing_loop(
    r: Tensor, k: Tensor, v: Tensor, kappa: Tensor, a: Tensor, log_decay: Tensor
) -> Tensor:
    """Outputs of RWKV-7 with the state as the paper has it, (value, key)."""
    dtype = v.dtype
    r, k, v, kappa, a, log_decay = (one.double() for one in (r, k, v, kappa, a, log_decay))
    state = torch.zeros(len(v), 2, v.shape[-1], k.shape[-1], dtype=torch.float64)
    outputs = []
    for t in range(v.shape[1]):
        erase = kappa[:, t].unsqueeze(-1) * (a[:, t] * kappa[:, t]).unsqueeze(-2)
        state = state @ (torch.diag_embed(log_decay[:, t].exp()) - erase)
        state = state + v[:, t].unsqueeze(-1) * k[:, t].unsqueeze(-2)
        outputs.append((state @ r[:, t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(outputs, 1).to(dtype)


class OtherDecay(TimeMixing):
    """Decays a little more."""

    def decay(self, logits: Tensor) -> Tensor:
        """Log decays."""
        return -0.7 * torch.sigmoid(logits)


class LongKeys(TimeMixing):
    """Erases along keys that are a little longer than 1."""

    def kappa(self, x: Tensor) -> Tensor:
        """The removal key."""
        return 1.02 * super().kappa(x)


class NoBonus(TimeMixing):
    """Gives the present token no bonus."""

    def bonus(self, r: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """For the present token."""
        return torch.zeros_like(v)


class FlaTimeMixing(nn.Module):
    """RWKV-7's in the form of flash-linear-attention, whose low-rank layers are modules."""

    def __init__(self, layer_idx: int = 0) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g"):
            setattr(self, name, nn.Parameter(torch.rand(1, 1, WIDTH)))
        for name in ("r_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=False))
        self.k_k, self.k_a = (nn.Parameter(torch.randn(WIDTH)) for _ in "ka")
        self.r_k = nn.Parameter(torch.randn(2, WIDTH // 2))
        self.w_lora = _low_rank(nn.Tanh())
        self.a_lora = _low_rank(nn.Identity())
        self.g_lora = _low_rank(nn.Sigmoid())
        if layer_idx:
            self.v_lora = _low_rank(nn.Identity())
        self.g_norm = nn.GroupNorm(2, WIDTH, eps=8e-5)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        v_first: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """One pass, from an empty state whatever is in the cache."""
        kept = 1.0 if attention_mask is None else attention_mask.unsqueeze(-1)
        x = hidden_states * kept
        before = F.pad(x, (0, 0, 1, -1))
        mixed = {n: torch.lerp(x, before, getattr(self, f"x_{n}")) for n in "rwkvag"}
        r, k, v = self.r_proj(mixed["r"]), self.k_proj(mixed["k"]), self.v_proj(mixed["v"])
        if v_first is None:
            v_first = v
        else:
            v = torch.lerp(v, v_first, self.v_lora(mixed["v"]).sigmoid())
        v, a = v * kept, self.a_lora(mixed["a"]).sigmoid()
        log_decay = -math.exp(-0.5) * self.w_lora(mixed["w"]).sigmoid()
        removal, k = k * self.k_k, k * (1 + (a - 1) * self.k_a)
        r, k, v, a, removal, log_decay = (
            one.unflatten(-1, (2, -1)) for one in (r, k, v, a, removal, log_decay)
        )
        y = erasing_loop(r, k, v, F.normalize(removal, dim=-1), a, log_decay)
        y = self.g_norm(y.flatten(0, 1).flatten(1)).view_as(x)
        y = y + ((r * k * self.r_k).sum(-1, keepdim=True) * v).flatten(2)
        return self.o_proj(y * self.g_lora(mixed["g"])), None, past_key_values, v_first


def _low_rank(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 4, bias=False), activation, nn.Linear(4, WIDTH))


class RwkvModel(nn.Module):
    """Tokens, layers that are given the values of the first, and a head."""

    def __init__(self, *layers: nn.Module, vocab: int = 13) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, WIDTH)
        self.layers = nn.ModuleList(layers)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        """One pass."""
        x, v_first = self.embedding(tokens), None
        for layer in self.layers:
            y, v_first = layer(x, v_first)
            x = x + y
        return self.head(self.norm(x))

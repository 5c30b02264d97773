"""Language models of mamba_ssm with Mamba-3 layers, in PyTorch: no other package runs them here.

Source of the recurrence: Lahoti et al. 2026 (arXiv 2603.15569). Parameters have the names that
mamba_ssm gives them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from keelback.errors import InputError
from keelback.ssd import gated_linear_attention

NOTE = (
    "the Mamba-3 layers of mamba_ssm run in keelback's own code here: a replay does not compare "
    "them with mamba_ssm's kernels"
)
_EPSILON = 1e-5
"""Of all norms; a configuration of mamba_ssm cannot state another."""
_FLOOR = 1e-4
"""Default of ssm_cfg.A_floor."""
_FRACTIONS = (0.5, 1.0)
"""Of a state's pairs that are rotated."""
ACTIVATION = "A_activation"
"""Setting of ssm_cfg by which a user says what a checkpoint does not: see `_activation`."""


def _heavy_tailed(x: Tensor) -> Tensor:
    """1 + x above 0, and 1 / (1 - x) below."""
    return x.clamp_min(0) + 1 / (1 - x.clamp_max(0))


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "heavy_tail": _heavy_tailed,
}


class _GatedNorm(nn.Module):
    """RMS norm of each head, then the gate."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.weight, self._head = nn.Parameter(torch.ones(width)), head

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        heads = x.unflatten(-1, (-1, self._head))
        normed = F.rms_norm(heads, (self._head,), eps=_EPSILON).flatten(-2)
        return normed * self.weight * F.silu(z)


class Mamba3Mixer(nn.Module):
    """The layer; see `sizes_of` for its sizes.

    Args:
        activation: of the rates.
        floor: the least rate.
    """

    def __init__(
        self,
        d_model: int,
        sizes: Mapping[str, Any],
        activation: Callable[[Tensor], Tensor],
        floor: float,
    ) -> None:
        super().__init__()
        head, state, groups = (sizes[name] for name in ("headdim", "d_state", "ngroups"))
        inner, rank = round(sizes["expand"] * d_model), sizes["mimo_rank"] or 1
        heads = inner // head
        self.is_mimo, self.is_outproj_norm = sizes["is_mimo"], sizes["is_outproj_norm"]
        self.num_bc_heads = groups
        self.num_rope_angles = _angles(state, sizes["rope_fraction"])
        self.A_floor, self._activation = floor, activation
        width = 2 * inner + 2 * state * groups * rank + 3 * heads + self.num_rope_angles
        self.in_proj = nn.Linear(d_model, width, bias=False)
        self.dt_bias, self.D = nn.Parameter(torch.zeros(heads)), nn.Parameter(torch.ones(heads))
        self.B_bias, self.C_bias = (nn.Parameter(torch.ones(heads, rank, state)) for _ in "BC")
        self.B_norm, self.C_norm = (nn.RMSNorm(state, eps=_EPSILON) for _ in "BC")
        if self.is_mimo:
            self.mimo_x, self.mimo_z, self.mimo_o = (
                nn.Parameter(torch.ones(heads, rank, head)) for _ in "xzo"
            )
        if self.is_outproj_norm:
            self.norm = _GatedNorm(inner, head)
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def _compute_a(self, logits: Tensor) -> Tensor:
        """A of each head and step; audits look for it by this name."""
        return -self._activation(logits.float()).clamp_min(self.A_floor)

    def _maps(self, x: Tensor, norm: nn.Module, bias: Tensor, phases: Tensor) -> Tensor:
        """B or C of each head, rotated by all angles so far: (batch, length, heads, rank, state).

        Neighbours are pairs; with several inputs, states of the first half and of the second.
        """
        heads, rank, state = bias.shape
        x = norm(x.unflatten(-1, (rank, -1, state)))
        x = x.repeat_interleave(heads // x.shape[3], dim=3).transpose(2, 3).float() + bias
        pairs = x.unflatten(-1, (2, -1)).mT if self.is_mimo else x.unflatten(-1, (-1, 2))
        turned, rest = pairs.split([phases.shape[-1], pairs.shape[-2] - phases.shape[-1]], dim=-2)
        cos, sin = (one.unsqueeze(3) for one in (phases.cos().float(), phases.sin().float()))
        a, b = turned.unbind(-1)
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1)
        return torch.cat([turned, rest], -2).flatten(-2)

    def forward(self, u: Float[Tensor, "batch length d_model"]) -> Tensor:
        """Each step writes shares of its own input and of the one before; outputs read both."""
        heads, rank, state = self.B_bias.shape
        inner, maps = self.out_proj.in_features, self.num_bc_heads * rank * state
        widths = [inner, inner, maps, maps, *[heads] * 3, self.num_rope_angles]
        z, x, B, C, step, rate, trapezoid, raw = self.in_proj(u).split(widths, -1)
        dt = F.softplus((step + self.dt_bias).float())
        logs, share = dt * self._compute_a(rate), torch.sigmoid(trapezoid.float())
        angles = torch.pi * torch.tanh(raw.float()).unsqueeze(2) * dt.unsqueeze(-1)
        phases = angles.double().cumsum(1)
        B = self._maps(B, self.B_norm, self.B_bias, phases)
        C = self._maps(C, self.C_norm, self.C_bias, phases)
        x, z = (one.unflatten(-1, (heads, 1, -1)).float() for one in (x, z))
        if self.is_mimo:
            x, z = x * self.mimo_x, z * self.mimo_z
        before_x, before_B = (F.pad(one[:, :-1], (*[0] * 6, 1, 0)) for one in (x, B))
        written = ((x, B, share * dt), (before_x, before_B, (1 - share) * dt * logs.exp()))
        y = torch.stack([_read(C[:, :, :, reader], written, logs) for reader in range(rank)], 3)
        y = y + self.D[:, None, None] * x
        if self.is_outproj_norm:
            y, z = (one.transpose(2, 3).flatten(3) for one in (y, z))
            y = self.norm(y, z).unflatten(-1, (heads, -1)).transpose(2, 3)
        else:
            y = y * F.silu(z)
        y = (y * self.mimo_o).sum(3) if self.is_mimo else y.squeeze(3)
        return self.out_proj(y.flatten(2).to(u.dtype))


def _read(
    C: Float[Tensor, "batch length heads state"],
    written: Sequence[tuple[Tensor, Tensor, Tensor]],
    logs: Float[Tensor, "batch length heads"],
) -> Float[Tensor, "batch length heads head_dim"]:
    """What an output reads of what was written: all x B^T of all ranks, each with its weight."""
    parts = []
    for x, B, weights in written:
        for rank in range(x.shape[3]):
            y = gated_linear_attention(C, B[:, :, :, rank], x[:, :, :, rank], logs, weights)
            assert isinstance(y, Tensor)
            parts.append(y)
    return torch.stack(parts).sum(0)


class _Block(nn.Module):
    def __init__(self, d_model: int, mixer: Mamba3Mixer) -> None:
        super().__init__()
        self.norm, self.mixer = nn.RMSNorm(d_model, eps=_EPSILON), mixer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mixer(self.norm(x))


class _Backbone(nn.Module):
    def __init__(self, vocab_size: int, d_model: int, mixers: list[Mamba3Mixer]) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList(_Block(d_model, mixer) for mixer in mixers)
        self.norm_f = nn.RMSNorm(d_model, eps=_EPSILON)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embeddings(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm_f(x)


class Mamba3LanguageModel(nn.Module):
    """mamba_ssm's `MambaLMHeadModel` with Mamba-3 layers: logits of the next token."""

    def __init__(
        self, vocab_size: int, d_model: int, mixers: list[Mamba3Mixer], tied: bool
    ) -> None:
        super().__init__()
        self.backbone = _Backbone(vocab_size, d_model, mixers)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self._tied = tied

    def tie_weights(self) -> None:
        """Let the head have the embeddings' weights, if it should."""
        if self._tied:
            self.lm_head.weight = self.backbone.embeddings.weight

    def forward(
        self, tokens: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length vocab_size"]:
        """One pass."""
        return self.lm_head(self.backbone(tokens))


def sizes_of(shapes: Mapping[str, Any], d_model: int, folder: Path) -> dict[str, Any]:
    """What a layer's tensors say of its sizes, those of ssm_cfg by their names there.

    Raises:
        InputError: they are of no number of groups.
        KeyError: one is missing.
    """
    heads, rank, state = shapes["B_bias"]
    inner, rows = shapes["out_proj.weight"][1], shapes["in_proj.weight"][0]
    is_mimo = "mimo_x" in shapes
    common = {
        "layer": "Mamba3",
        "expand": inner / d_model,
        "headdim": inner // heads,
        "d_state": state,
        "is_mimo": is_mimo,
        "mimo_rank": rank if is_mimo else None,
        "is_outproj_norm": "norm.weight" in shapes,
        "A_floor": None,
        "dropout": None,
        ACTIVATION: None,
    }
    for fraction in _FRACTIONS:
        angles = _angles(state, fraction)
        groups, left = divmod(rows - 2 * inner - 3 * heads - angles, 2 * state * rank)
        if left == 0 and groups > 0 and heads % groups == 0 and angles > 0:
            return {**common, "ngroups": groups, "rope_fraction": fraction}
    raise InputError(
        f"{folder}: in_proj.weight of its Mamba-3 layers has {rows} rows, which are of no number "
        f"of groups for {heads} heads and {state} states"
    )


def _angles(states: int, fraction: float) -> int:
    """Pairs of states that are rotated."""
    return int(states * fraction) // 2


def build_mamba3(
    config: Mapping[str, Any], sizes: Mapping[str, Any], vocab_size: int, folder: Path
) -> Mamba3LanguageModel:
    """The model that a configuration of mamba_ssm describes.

    Raises:
        InputError: the configuration does not say how rates are computed.
    """
    ssm_cfg = config.get("ssm_cfg") or {}
    activation, floor = _activation(ssm_cfg, folder), float(ssm_cfg.get("A_floor", _FLOOR))
    d_model = config["d_model"]
    mixers = [Mamba3Mixer(d_model, sizes, activation, floor) for _ in range(config["n_layer"])]
    return Mamba3LanguageModel(vocab_size, d_model, mixers, config.get("tie_embeddings", True))


def _activation(ssm_cfg: Mapping[str, Any], folder: Path) -> Callable[[Tensor], Tensor]:
    """Of the rates. mamba_ssm replaced it, and neither tensors nor configuration tell which it was.

    Raises:
        InputError: it is not stated, or unknown.
    """
    stated = ssm_cfg.get(ACTIVATION)
    if stated in _ACTIVATIONS:
        return _ACTIVATIONS[str(stated)]
    asked = (
        f"{folder} has Mamba-3 layers, and nothing in it says how they compute their rates. State "
        f'it in config.json, as ssm_cfg.{ACTIVATION}: "softplus" if the model was trained with a '
        'release of mamba_ssm up to 2.3.2, "heavy_tail" if with its repository since June 2026 '
        "(heavy_tail_activation in mamba_ssm/modules/mamba3.py)"
    )
    if stated is None:
        raise InputError(asked)
    raise InputError(
        f"{folder}: ssm_cfg.{ACTIVATION} is {stated!r}; it should be softplus or heavy_tail"
    )

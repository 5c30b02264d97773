"""Linear attention with the parts of flash-linear-attention's layers, by loops in float64."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS, KEY, VALUE = 16, 4, 8, 4


def loop(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Outputs step by step; log decays (batch, length, heads, key), or 1 in place of key."""
    dtype = q.dtype
    q, k, v, g = (x.double() for x in (q, k, v, g))
    h = torch.zeros(*k.shape[0::2], k.shape[-1], v.shape[-1]).double()
    outputs = []
    for t in range(q.shape[1]):
        h = h * g[:, t].exp().unsqueeze(-1) + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        outputs.append((q[:, t].unsqueeze(-2) @ h).squeeze(-2))
    return torch.stack(outputs, 1).to(dtype)


def padded_again(run: Any, x: Tensor, mask: Tensor | None, *more: Any) -> Tensor:
    """What a layer gives that strikes out padding and packs what is left."""
    if mask is None:
        found: Tensor = run(x, [x.shape[1]], *more)
        return found
    kept = mask.bool()
    y = x.new_zeros(x.shape)
    y[kept] = run(x[kept].unsqueeze(0), kept.sum(1).tolist(), *more)[0]
    return y


class Norm(nn.Module):
    """RMS norm of the last axis, gated where it is told so."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.rand(width) + 0.5), None, 1e-5

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """One pass."""
        y = F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)
        return y if gate is None else y * F.silu(gate)


class ShortConvolution(nn.Conv1d):
    """Causal and by channel, given by name and giving its cache too."""

    def __init__(self, width: int, activation: str | None = "silu") -> None:
        super().__init__(width, width, 4, groups=width, padding=3, bias=False)
        self.activation = activation

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        """One pass."""
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        y = super().forward(x.mT)[..., : x.shape[1]].mT
        return (F.silu(y) if self.activation else y), None


class Rotary(nn.Module):
    """Rotates queries and keys by angles that grow with the position."""

    def forward(self, q: Tensor, k: Tensor, seqlen_offset: int, max_seqlen: int) -> Any:
        """One pass."""
        frequencies = 10000.0 ** (-torch.arange(0, KEY, 2) / KEY)
        angles = torch.arange(q.shape[1])[:, None] * frequencies
        return self.rotated(q, angles[:, None]), self.rotated(k, angles[:, None])

    @staticmethod
    def rotated(x: Tensor, angles: Tensor) -> Tensor:
        """The two halves of the channels are pairs."""
        a, b = x.chunk(2, -1)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Gla(nn.Module):
    """`GatedLinearAttention`; subclasses change one thing each."""

    packs = True

    def __init__(
        self,
        kv_heads: int = HEADS,
        convolved: bool = False,
        gated: bool = True,
        fused: bool = True,
        clamp_min: float | None = None,
        feature_map: Any = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.num_kv_groups = HEADS, kv_heads, HEADS // kv_heads
        self.head_k_dim, self.head_v_dim, self.layer_idx = KEY, VALUE, 0
        self.use_short_conv, self.clamp_min = convolved, clamp_min
        self.gate_logit_normalizer, self.feature_map_fn = 16, feature_map
        self.q_proj = nn.Linear(WIDTH, HEADS * KEY, bias=False)
        self.k_proj = nn.Linear(WIDTH, kv_heads * KEY, bias=False)
        self.v_proj = nn.Linear(WIDTH, kv_heads * VALUE, bias=False)
        self.o_proj = nn.Linear(HEADS * VALUE, WIDTH, bias=False)
        if convolved:
            self.q_conv1d = ShortConvolution(HEADS * KEY)
            self.k_conv1d = ShortConvolution(kv_heads * KEY)
            self.v_conv1d = ShortConvolution(kv_heads * VALUE)
        if gated:
            self.g_proj = nn.Linear(WIDTH, HEADS * VALUE, bias=False)
        self.fuse_norm_and_gate = gated and fused
        if self.fuse_norm_and_gate:
            self.g_norm_swish_gate = Norm(VALUE)
        else:
            self.g_norm, self.gate_fn = Norm(VALUE), F.silu
        self.add_gate()

    def add_gate(self) -> None:
        """The parts of the forget gate."""
        width = self.num_kv_heads * KEY
        self.gk_proj: Any = nn.Sequential(nn.Linear(WIDTH, 4, bias=False), nn.Linear(4, width))

    def log_decays(self, x: Tensor) -> Tensor:
        """(batch, length, heads, key), or 1 in place of key."""
        g = F.logsigmoid(self.gk_proj(x)) / self.gate_logit_normalizer
        if self.clamp_min is not None:
            g = g.clamp_min(self.clamp_min)
        return g.unflatten(-1, (-1, KEY)).repeat_interleave(self.num_kv_groups, 2)

    def rotated(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """As they are."""
        return q, k

    def attended(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        """The recurrence."""
        return loop(q / KEY**0.5, k, v, g)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
    ) -> tuple[Any, ...]:
        """One pass, from an empty state whatever is in the cache."""
        if self.packs:
            y = padded_again(self.one, hidden_states, attention_mask, None)
        else:
            y = self.one(hidden_states, [hidden_states.shape[1]], attention_mask)
        return y, None, past_key_values

    def one(self, x: Tensor, lengths: list[int], mask: Tensor | None) -> Tensor:
        """A pass over sequences behind each other."""
        every = self.q_proj(x), self.k_proj(x), self.v_proj(x), self.log_decays(x)
        q, k, v, g = (one.split(lengths, 1) for one in every)
        rows = [self.of_sequence(*own, mask) for own in zip(q, k, v, g, strict=True)]
        y = torch.cat(rows, 1)
        if not hasattr(self, "g_proj"):
            return self.o_proj(self.g_norm(y).flatten(2))
        gate = self.g_proj(x)
        if self.fuse_norm_and_gate:
            return self.o_proj(
                self.g_norm_swish_gate(y, gate.unflatten(-1, (HEADS, -1))).flatten(2)
            )
        return self.o_proj(self.g_norm(y).flatten(2) * self.gate_fn(gate))

    def of_sequence(
        self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Outputs of each head."""
        if self.use_short_conv:
            q, k, v = (
                self.q_conv1d(q, mask)[0],
                self.k_conv1d(k, mask)[0],
                self.v_conv1d(v, mask)[0],
            )
        if mask is not None:
            v, g = v * mask.unsqueeze(-1), g * mask[..., None, None]
        q, k, v = (x.unflatten(-1, (-1, n)) for x, n in ((q, KEY), (k, KEY), (v, VALUE)))
        if self.feature_map_fn is not None:
            q, k = self.feature_map_fn(q), self.feature_map_fn(k)
        q, k = self.rotated(q, k)
        k, v = (x.repeat_interleave(self.num_kv_groups, 2) for x in (k, v))
        return self.attended(q, k, v, g)


class SimpleGla(Gla):
    """`SimpleGatedLinearAttention`, which keeps padding where it is."""

    packs = False

    def add_gate(self) -> None:
        """The parts of the forget gate."""
        self.gk_proj = nn.Linear(WIDTH, HEADS)

    def log_decays(self, x: Tensor) -> Tensor:
        """One per head."""
        return (F.logsigmoid(self.gk_proj(x)) / self.gate_logit_normalizer).unsqueeze(-1)


class Retention(Gla):
    """`MultiScaleRetention`."""

    def add_gate(self) -> None:
        """None: the decay is fixed."""
        self.rotary = Rotary()

    def log_decays(self, x: Tensor) -> Tensor:
        """By the number of the head."""
        rates = torch.log(1 - 2 ** (-5 - torch.arange(HEADS, dtype=torch.float64)))
        return rates[:, None].expand(*x.shape[:2], HEADS, 1)

    def rotated(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """By their positions."""
        return self.rotary(q, k, 0, q.shape[1])


class Hgrn2(nn.Module):
    """`HGRN2Attention`."""

    def __init__(self, layer_idx: int = 1, convolved: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_f_dim, self.head_i_dim = HEADS, KEY, VALUE
        self.layer_idx, self.use_short_conv = layer_idx, convolved
        self.q_proj, self.f_proj = (nn.Linear(WIDTH, HEADS * KEY, bias=False) for _ in "qf")
        self.i_proj = nn.Linear(WIDTH, HEADS * VALUE, bias=False)
        self.g_norm = Norm(HEADS * VALUE)
        self.o_proj = nn.Linear(HEADS * VALUE, WIDTH, bias=False)
        if convolved:
            self.q_conv1d, self.f_conv1d = (ShortConvolution(HEADS * KEY, None) for _ in "qf")
            self.i_conv1d = ShortConvolution(HEADS * VALUE, None)

    def keys(self, g: Tensor) -> Tensor:
        """What the forget gate leaves of 1."""
        return 1 - g.exp()

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        lower_bound: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """One pass, from an empty state whatever is in the cache."""
        y = padded_again(self.one, hidden_states, attention_mask, lower_bound)
        return y, None, past_key_values

    def one(self, x: Tensor, lengths: list[int], lower_bound: Tensor | None) -> Tensor:
        """A pass over sequences behind each other."""
        q, f, i = (getattr(self, f"{n}_proj")(x).split(lengths, 1) for n in "qfi")
        rows = [self.of_sequence(*own, lower_bound) for own in zip(q, f, i, strict=True)]
        # Round the module, as a fused kernel does.
        return F.linear(self.g_norm(torch.cat(rows, 1).flatten(2)), self.o_proj.weight)

    def of_sequence(self, q: Tensor, f: Tensor, i: Tensor, lower_bound: Tensor | None) -> Tensor:
        """Outputs of each head."""
        if self.use_short_conv:
            q, f, i = (
                getattr(self, f"{n}_conv1d")(x)[0] for n, x in zip("qfi", (q, f, i), strict=True)
            )
        g = F.logsigmoid(f)
        if lower_bound is not None and self.layer_idx > 0:
            g = torch.logaddexp(lower_bound.log(), torch.log1p(-lower_bound) + g)
        q, k, v, g = (x.unflatten(-1, (HEADS, -1)) for x in (F.silu(q), self.keys(g), i, g))
        return loop(q / KEY**0.5, k, v, g)


class Gdn(nn.Module):
    """`GatedDeltaNet`; subclasses change one thing each."""

    def __init__(
        self, value_heads: int = HEADS, convolved: bool = True, gated: bool = True, **options: Any
    ) -> None:
        super().__init__()
        self.num_heads, self.num_v_heads, self.layer_idx = 2, value_heads, 0
        self.head_k_dim, self.head_v_dim = KEY, VALUE
        self.use_short_conv = convolved
        self.allow_neg_eigval = options.get("allow_neg_eigval", False)
        self.q_proj, self.k_proj = (nn.Linear(WIDTH, 2 * KEY, bias=False) for _ in "qk")
        self.v_proj = nn.Linear(WIDTH, value_heads * VALUE, bias=False)
        self.b_proj = nn.Linear(WIDTH, value_heads, bias=False)
        self.A_log = nn.Parameter(torch.rand(value_heads))
        self.o_norm = Norm(VALUE)
        self.o_proj = nn.Linear(value_heads * VALUE, WIDTH, bias=False)
        if convolved:
            self.q_conv1d, self.k_conv1d = (ShortConvolution(2 * KEY) for _ in "qk")
            self.v_conv1d = ShortConvolution(value_heads * VALUE)
        if gated:
            self.g_proj = nn.Linear(WIDTH, value_heads * VALUE, bias=False)
        self.add_gate(options)

    def add_gate(self, options: dict[str, Any]) -> None:
        """The parts of the forget gate."""
        self.a_proj = nn.Linear(WIDTH, self.num_v_heads, bias=False)
        self.dt_bias = nn.Parameter(torch.randn(self.num_v_heads) - 2)

    def log_decays(self, x: Tensor) -> Tensor:
        """(batch, length, heads, 1)."""
        return (-self.A_log.exp() * F.softplus(self.a_proj(x) + self.dt_bias)).unsqueeze(-1)

    def unit(self, x: Tensor) -> Tensor:
        """Of norm 1."""
        return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
    ) -> tuple[Any, ...]:
        """One pass, from an empty state whatever is in the cache."""
        return padded_again(self.one, hidden_states, attention_mask), None, past_key_values

    def one(self, x: Tensor, lengths: list[int]) -> Tensor:
        """A pass over sequences behind each other."""
        every = (*(getattr(self, f"{n}_proj")(x) for n in "qkvb"), self.log_decays(x))
        apart = (one.split(lengths, 1) for one in every)
        y = torch.cat([self.of_sequence(*own) for own in zip(*apart, strict=True)], 1)
        if hasattr(self, "g_proj"):
            y = self.o_norm(y, self.g_proj(x).unflatten(-1, (self.num_v_heads, -1)))
        else:
            y = self.o_norm(y)
        return self.o_proj(y.flatten(2))

    def of_sequence(self, q: Tensor, k: Tensor, v: Tensor, b: Tensor, g: Tensor) -> Tensor:
        """Outputs of each head."""
        if self.use_short_conv:
            q, k, v = self.q_conv1d(q)[0], self.k_conv1d(k)[0], self.v_conv1d(v)[0]
        else:
            q, k, v = F.silu(q), F.silu(k), F.silu(v)
        beta = b.sigmoid() * (2 if self.allow_neg_eigval else 1)
        q, k, v = (x.unflatten(-1, (-1, n)) for x, n in ((q, KEY), (k, KEY), (v, VALUE)))
        q, k = (self.unit(x).repeat_interleave(self.num_v_heads // 2, 2).double() for x in (q, k))
        h, outputs = torch.zeros(len(q), self.num_v_heads, KEY, VALUE).double(), []
        for t in range(q.shape[1]):
            h = h * g[:, t].double().exp().unsqueeze(-1)
            error = v[:, t].double() - (k[:, t].unsqueeze(-2) @ h).squeeze(-2)
            write = beta[:, t, :, None].double() * error
            h = h + k[:, t].unsqueeze(-1) * write.unsqueeze(-2)
            outputs.append((q[:, t].unsqueeze(-2) @ h).squeeze(-2) / KEY**0.5)
        return torch.stack(outputs, 1).to(v.dtype)


class Kda(Gdn):
    """`KimiDeltaAttention`."""

    def add_gate(self, options: dict[str, Any]) -> None:
        """The parts of the forget gate."""
        width = self.num_v_heads * KEY
        self.lower_bound = options.get("lower_bound")
        self.f_proj = nn.Sequential(nn.Linear(WIDTH, 4, bias=False), nn.Linear(4, width))
        self.dt_bias = nn.Parameter(torch.randn(width) - 2)

    def log_decays(self, x: Tensor) -> Tensor:
        """(batch, length, heads, key)."""
        logits = (self.f_proj(x) + self.dt_bias).unflatten(-1, (self.num_v_heads, -1))
        rates = self.A_log.exp().unsqueeze(-1)
        if self.lower_bound is None:
            return -rates * F.softplus(logits)
        return self.lower_bound * torch.sigmoid(rates * logits)


class LongKeys(Gdn):
    """Leaves queries and keys as long as they are."""

    def unit(self, x: Tensor) -> Tensor:
        """As it is."""
        return x / 2


class NoBound(Kda):
    """Says that it has a lower bound, and has none."""

    def log_decays(self, x: Tensor) -> Tensor:
        """(batch, length, heads, key)."""
        bound, self.lower_bound = self.lower_bound, None
        logs = super().log_decays(x)
        self.lower_bound = bound
        return logs


class OtherRoot(Gla):
    """Takes another root of the sigmoid than it says."""

    def log_decays(self, x: Tensor) -> Tensor:
        """Half of what they should be."""
        return super().log_decays(x) / 2


class ReadsBefore(Gla):
    """Reads the state before it is written to, as RWKV-6 does."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        """The recurrence, a step late."""
        following = F.pad(q, (0, 0, 0, 0, -1, 1))
        return F.pad(super().attended(following, k, v, g), (0, 0, 0, 0, 1, -1))


class Erases(SimpleGla):
    """Writes the difference to what it holds: a delta rule."""

    def attended(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        """The recurrence."""
        h, k = torch.zeros(len(q), HEADS, KEY, VALUE), F.normalize(k, dim=-1)
        outputs = []
        for t in range(q.shape[1]):
            h = h * g[:, t].exp().unsqueeze(-1)
            error = v[:, t] - (k[:, t].unsqueeze(-2) @ h).squeeze(-2)
            h = h + k[:, t].unsqueeze(-1) * error.unsqueeze(-2)
            outputs.append((q[:, t].unsqueeze(-2) @ h).squeeze(-2) / KEY**0.5)
        return torch.stack(outputs, 1)


class OtherRates(Retention):
    """Retention with rates of its own."""

    def log_decays(self, x: Tensor) -> Tensor:
        """Twice those of RetNet."""
        return 2 * super().log_decays(x)


class OtherKeys(Hgrn2):
    """Writes the square of what the forget gate leaves."""

    def keys(self, g: Tensor) -> Tensor:
        """Squared."""
        return super().keys(g).square()

"""Layers that look like Mamba: some are, some scan in more directions, some do something else.

An audit must read the first two kinds and refuse the third.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keelback import scan


def selective_scan(*operands: Any, **options: Any) -> Tensor:
    """The scan's output alone."""
    y = scan.selective_scan(*operands, **options)
    assert isinstance(y, Tensor)
    return y


WIDTH, INNER, STATE, RANK = 16, 32, 4, 2


class Mamba(nn.Module):
    """Mamba as papers have it, with parts of the usual names; subclasses change one thing each."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj = nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.conv1d = nn.Conv1d(INNER, INNER, 4, groups=INNER, padding=3)
        self.x_proj = nn.Linear(INNER, RANK + 2 * STATE, bias=False)
        self.dt_proj = nn.Linear(RANK, INNER)
        self.A_log = nn.Parameter(torch.arange(1.0, STATE + 1).log().repeat(INNER, 1))
        self.D = nn.Parameter(torch.ones(INNER))
        self.out_proj = nn.Linear(INNER, WIDTH, bias=False)
        nn.init.uniform_(self.dt_proj.bias, -4.0, -1.0)

    def step(self, low: Tensor) -> Tensor:
        """Step sizes."""
        return F.softplus(self.dt_proj(low))

    def scan(self, x: Tensor) -> Tensor:
        """What is scanned of the convolved half of the projection."""
        u = F.silu(self.conv1d(x.mT)[..., : x.shape[1]].mT)
        low, B, C = self.x_proj(u).split([RANK, STATE, STATE], -1)
        A = -self.A_log.exp()
        return self.scanned(u, self.step(low), A, B.unsqueeze(-2), C.unsqueeze(-2))

    def scanned(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        """The scan itself."""
        return selective_scan(u, delta, A, B, C, self.D)

    def gated(self, y: Tensor, z: Tensor) -> Tensor:
        """The gate."""
        return y * F.silu(z)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """One pass."""
        x, z = self.in_proj(hidden_states).chunk(2, -1)
        return self.out_proj(self.gated(self.scan(x), z))


class FlooredStep(Mamba):
    """Its step is softplus and a little, which decides how long a faint channel remembers."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.dt_proj.bias, -12.0)

    def step(self, low: Tensor) -> Tensor:
        """Step sizes."""
        return super().step(low) + 1e-4


class SteppedTwice(Mamba):
    """One channel of many steps twice as far."""

    def step(self, low: Tensor) -> Tensor:
        """Step sizes."""
        return super().step(low) * torch.ones(INNER).index_fill(0, torch.tensor([5]), 2.0)


class Euler(Mamba):
    """Decays by 1 + delta A in place of the exponential."""

    def scanned(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        """The scan itself."""
        h, rows = torch.zeros(len(u), INNER, STATE), []
        for t in range(u.shape[1]):
            step = delta[:, t, :, None]
            h = (1 + step * A) * h + step * u[:, t, :, None] * B[:, t]
            rows.append((h * C[:, t]).sum(-1) + self.D * u[:, t])
        return torch.stack(rows, 1)


class Forgetful(Mamba):
    """Begins anew every 32 tokens."""

    def scanned(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        """The scan itself."""
        reset = (torch.arange(u.shape[1]) % 32 == 0).expand(len(u), -1)
        return selective_scan(u, delta, A, B, C, self.D, reset=reset)


class OtherGate(Mamba):
    """Gates by a sigmoid."""

    def gated(self, y: Tensor, z: Tensor) -> Tensor:
        """The gate."""
        return y * z.sigmoid()


class SecondScan(Mamba):
    """Adds a scan of its own with rates under a name that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.A_slow = nn.Parameter(torch.full((INNER, STATE), -9.0))

    def scanned(self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        """The scan itself."""
        y = super().scanned(u, delta, A, B, C)
        return y + selective_scan(u, delta, -self.A_slow.exp(), B, C)


class Idle(Mamba):
    """Has a second set of rates that does nothing as yet."""

    def __init__(self) -> None:
        super().__init__()
        self.A_next_log = nn.Parameter(torch.zeros(INNER, STATE))


class OddShapes(Mamba):
    """Its projection gives B and C for two groups: it cannot be read as what it looks like."""

    def __init__(self) -> None:
        super().__init__()
        self.x_proj = nn.Linear(INNER, 1 + STATE, bias=False)

    def scan(self, x: Tensor) -> Tensor:
        """What is scanned of the convolved half of the projection."""
        return self.x_proj(x)[..., :1] * x


class ThereAndBack(Mamba):
    """Scans the reversed sequence as well, with the same weights."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """One pass."""
        return super().forward(hidden_states) + super().forward(hidden_states.flip(1)).flip(1)


class RemembersBefore(Mamba):
    """Is given an average over all earlier positions besides, which no parameter shows."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """One pass."""
        return super().forward(hidden_states + _averaged(hidden_states))


class RemembersAfter(Mamba):
    """Adds such an average to what it gives."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """One pass."""
        return super().forward(hidden_states) + _averaged(hidden_states)


def _averaged(x: Tensor) -> Tensor:
    """The mean of all positions up to each."""
    return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]


LOOKALIKES = (
    *(FlooredStep, SteppedTwice, Euler, Forgetful, OtherGate, SecondScan, Idle, OddShapes),
    *(ThereAndBack, RemembersBefore, RemembersAfter),
)


class Vim(Mamba):
    """Vision Mamba with a second direction of its own (`v2`) or with shared parts (`v1`)."""

    def __init__(
        self, own_parts: bool = True, backward_rate: float = 1.0, halves: bool = False
    ) -> None:
        super().__init__()
        self.A_b_log = nn.Parameter(torch.full((INNER, STATE), backward_rate).log())
        self.if_divide_out = halves
        self.own_parts = own_parts
        if own_parts:
            self.conv1d_b = nn.Conv1d(INNER, INNER, 4, groups=INNER, padding=3)
            self.x_proj_b = nn.Linear(INNER, RANK + 2 * STATE, bias=False)
            self.dt_proj_b = nn.Linear(RANK, INNER)
            self.D_b = nn.Parameter(torch.full((INNER,), 0.5))

    def backward_scan(self, x: Tensor) -> Tensor:
        """The scan of the reversed sequence."""
        own = self.own_parts
        conv1d, x_proj, dt_proj, D = (
            (self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.D_b)
            if own
            else (self.conv1d, self.x_proj, self.dt_proj, self.D)
        )
        u = F.silu(conv1d(x.mT)[..., : x.shape[1]].mT)
        low, B, C = x_proj(u).split([RANK, STATE, STATE], -1)
        step = F.softplus(dt_proj(low))
        A = -self.A_b_log.exp()
        return selective_scan(u, step, A, B.unsqueeze(-2), C.unsqueeze(-2), D)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """One pass."""
        # As Vim's own code does, past the module: no hook sees the projection.
        x, z = F.linear(hidden_states, self.in_proj.weight).chunk(2, -1)
        out = self.scan(x) * F.silu(z)
        back = (self.backward_scan(x.flip(1)) * F.silu(z.flip(1))).flip(1)
        both = out + back
        return self.out_proj(both / 2 if self.if_divide_out else both)


class SS2D(nn.Module):
    """VMamba's scan of an image in four directions."""

    def __init__(self, gated: bool = True) -> None:
        super().__init__()
        self.gated = gated
        self.in_proj = nn.Linear(WIDTH, (2 if gated else 1) * INNER, bias=False)
        self.conv2d = nn.Conv2d(INNER, INNER, 3, groups=INNER, padding=1)
        self.act = nn.SiLU()
        self.x_proj_weight = nn.Parameter(0.3 * torch.randn(4, RANK + 2 * STATE, INNER))
        self.dt_projs_weight = nn.Parameter(torch.randn(4, INNER, RANK))
        self.dt_projs_bias = nn.Parameter(torch.rand(4, INNER) - 3)
        rates = torch.tensor([1.0, 2.0, 4.0, 8.0]).repeat_interleave(INNER)
        self.A_logs = nn.Parameter(rates.log()[:, None] + torch.rand(4 * INNER, STATE))
        self.Ds = nn.Parameter(torch.rand(4 * INNER))
        self.out_norm = nn.LayerNorm(INNER)
        self.out_proj = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """One pass."""
        batch, height, width, _ = x.shape
        projected = self.in_proj(x)
        x, z = projected.chunk(2, -1) if self.gated else (projected, None)
        x = self.act(self.conv2d(x.permute(0, 3, 1, 2)))
        rows, columns = x.flatten(2), x.transpose(2, 3).flatten(2)
        every = torch.stack([rows, columns, rows.flip(-1), columns.flip(-1)], 1)
        y = torch.stack([self.one(every[:, k].mT, k) for k in range(4)], 1).mT
        forward, reverse = y[:, :2], y[:, 2:].flip(-1)
        total = forward[:, 0] + reverse[:, 0]
        across = (forward[:, 1] + reverse[:, 1]).unflatten(-1, (width, height)).transpose(2, 3)
        total = (total + across.flatten(2)).mT.reshape(batch, height, width, INNER)
        normed = self.out_norm(total)
        return self.out_proj(normed if z is None else normed * F.silu(z))

    def one(self, u: Tensor, k: int) -> Tensor:
        """One direction."""
        low, B, C = (u @ self.x_proj_weight[k].mT).split([RANK, STATE, STATE], -1)
        step = F.softplus(low @ self.dt_projs_weight[k].mT + self.dt_projs_bias[k])
        own = slice(k * INNER, (k + 1) * INNER)
        A, D = -self.A_logs[own].exp(), self.Ds[own]
        return selective_scan(u, step, A, B.unsqueeze(-2), C.unsqueeze(-2), D)


class BothWays(nn.Module):
    """Caduceus' wrapper: one Mamba runs forward, one on the reversed sequence, projections tied."""

    def __init__(self) -> None:
        super().__init__()
        self.mamba_fwd, self.mamba_rev = Mamba(), Mamba()
        self.mamba_rev.in_proj.weight = self.mamba_fwd.in_proj.weight
        self.mamba_rev.out_proj.weight = self.mamba_fwd.out_proj.weight

    def forward(self, hidden_states: Tensor) -> Tensor:
        """One pass."""
        return self.mamba_fwd(hidden_states) + self.mamba_rev(hidden_states.flip(1)).flip(1)


class LanguageModel(nn.Module):
    """Embedding, layers with residuals around them, and a head."""

    def __init__(self, *layers: nn.Module, vocab: int = 13) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, WIDTH)
        self.layers = nn.ModuleList(layers)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        """One pass."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(self.norm(x))


class ImageModel(nn.Module):
    """Patches, layers, and classes; takes its image by name, too."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, 2)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, image: Tensor, bias: Any = None) -> dict[str, Tensor]:
        """One pass."""
        x = self.patches(image).permute(0, 2, 3, 1)
        for layer in self.layers:
            x = x + layer(x)
        scores = self.head(x.mean((1, 2)))
        return {"scores": scores if bias is None else scores + bias}

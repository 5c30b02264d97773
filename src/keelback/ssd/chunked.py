"""The scan by heads in chunks of matrix products: plain PyTorch, for any device and dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.ssd.reference import NO_LIMIT, DtLimit, steps_of, with_skip_and_gate

CHUNK = 64


def ssd_chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    reset: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: DtLimit = NO_LIMIT,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """`ssd_reference` by chunks: Dao and Gu 2024 (arXiv 2405.21060), section 6.

    Within a chunk the output is a masked product, (C B^T * decays) x; between chunks the states are
    passed on, one step per chunk. Steps that the length lacks to whole chunks have a size of zero.
    """
    batch, length, heads, head_dim = x.shape
    groups, states = B.shape[2:]
    lacking = -length % chunk
    steps = F.pad(steps_of(dt, dt_bias, dt_softplus, dt_limit), (0, 0, 0, lacking))
    padded = [F.pad(one, (0, 0, 0, 0, 0, lacking)) for one in (x, B, C)]
    # Axes: b batch, c chunk, i and j steps of a chunk, g group, h head of a group, p, n.
    xs, Bs, Cs = (one.unflatten(1, (-1, chunk)) for one in padded)
    xs = xs.unflatten(3, (groups, heads // groups))
    sizes = steps.unflatten(1, (-1, chunk)).unflatten(3, (groups, -1))
    logs = (sizes * A.unflatten(0, (groups, -1))).cumsum(2)
    kept = _kept(reset, batch, length, chunk, x.device)

    decays = (logs.unsqueeze(3) - logs.unsqueeze(2)).masked_fill(
        ~kept.pairs[..., None, None], -torch.inf
    )
    drive = sizes.unsqueeze(-1) * xs
    scores = torch.einsum("bcign,bcjgn->bcijg", Cs, Bs)
    y = torch.einsum("bcijg,bcijgh,bcjghp->bcighp", scores, decays.exp(), drive)

    to_end = (logs[:, :, -1:] - logs).masked_fill(~kept.to_end[..., None, None], -torch.inf)
    locals_ = torch.einsum("bcjgh,bcjghp,bcjgn->bcghpn", to_end.exp(), drive, Bs)
    across = logs[:, :, -1].masked_fill(~kept.across[..., None, None], -torch.inf).exp()
    h = x.new_zeros(batch, heads, head_dim, states) if initial_states is None else initial_states
    h = h.unflatten(1, (groups, -1))
    before = []
    for c in range(xs.shape[1]):
        before.append(h)
        h = across[:, c, ..., None, None] * h + locals_[:, c]
    if before:
        from_start = logs.masked_fill(~kept.from_start[..., None, None], -torch.inf).exp()
        entering = torch.einsum("bcign,bcghpn->bcighp", Cs, torch.stack(before, dim=1))
        y = y + from_start.unsqueeze(-1) * entering
    y = y.flatten(3, 4).flatten(1, 2)[:, :length]
    return with_skip_and_gate(y, x, D, z), h.flatten(1, 2)


class _Kept:
    """What the resets of a chunk leave: of pairs of steps, and of the states at its ends."""

    def __init__(self, epochs: Tensor, chunk: int) -> None:
        causal = torch.ones(chunk, chunk, dtype=torch.bool, device=epochs.device).tril()
        self.pairs = causal & (epochs.unsqueeze(3) == epochs.unsqueeze(2))
        self.from_start = epochs == 0
        self.to_end = epochs == epochs[:, :, -1:]
        self.across = epochs[:, :, -1] == 0


def _kept(
    reset: Tensor | None, batch: int, length: int, chunk: int, device: torch.device
) -> _Kept:
    if reset is None:
        reset = torch.zeros(batch, length, dtype=torch.bool, device=device)
    marks = F.pad(reset, (0, -length % chunk)).unflatten(1, (-1, chunk))
    return _Kept(marks.long().cumsum(2), chunk)

"""Mamba-3's scan: a trapezoid between steps, rotating states, several inputs per step."""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from keelback.compiled.checks import computing_dtype, require_groups, require_shape
from keelback.compiled.resets import require_reset, starts_of
from keelback.compiled.watchers import without_autocast
from keelback.errors import InputError
from keelback.ssd._attention import gated_linear_attention


class Mamba3States(NamedTuple):
    """What a step of Mamba-3 leaves: its states, and what the next step's trapezoid begins with.

    Attributes:
        states: (batch, heads, head_dim, state).
        x: The last input, (batch, heads, rank, head_dim).
        B: The last input map, (batch, groups, rank, state), not rotated.

    Examples:
        >>> x, B, dt = torch.ones(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 2), torch.ones(1, 1, 1)
        >>> _, last = mamba3(x, dt, -dt, B, B, 0.5 * dt)
        >>> last.states.flatten()
        tensor([0.5000, 0.5000])
    """

    states: Float[Tensor, "batch heads head_dim state"]
    x: Float[Tensor, "batch heads rank head_dim"]
    B: Float[Tensor, "batch groups rank state"]


def mamba3(
    x: Float[Tensor, "batch length heads rank head_dim"],
    dt: Float[Tensor, "batch length heads"],
    A: Float[Tensor, "batch length heads"],
    B: Float[Tensor, "batch length groups rank state"],
    C: Float[Tensor, "batch length groups rank state"],
    share: Float[Tensor, "batch length heads"],
    angles: Float[Tensor, "batch length heads pairs"] | None = None,
    initial_states: Mamba3States | None = None,
    *,
    reset: Bool[Tensor, "batch length"] | None = None,
    cu_seqlens: Int[Tensor, " boundaries"] | None = None,
    seq_idx: Int[Tensor, "batch length"] | None = None,
    backend: Literal["reference", "cpu", "cuda"] | None = None,
) -> tuple[Float[Tensor, "batch length heads rank head_dim"], Mamba3States]:
    """The recurrence of Mamba-3 (Lahoti et al. 2026, arXiv 2603.15569), without skip and gate.

        h_t = exp(dt_t A_t) R_t (h_{t-1} + (1 - share_t) dt_t u_{t-1}) + share_t dt_t u_t
        u_t = sum over ranks of x_t B_t^T        y_t = h_t C_t for each rank

    with a matrix h (head_dim, state) per head; R_t turns pairs of states by `angles`, as a complex
    decay does. With a rank of 1 it is the recurrence of one input and one output per step
    (SISO), with more the one of several (MIMO). A share of 1 and no angles are Mamba-2's scan.
    It is computed by `gated_linear_attention`: what u_t gives to later steps has the one weight
    share_t dt_t + (1 - share_{t+1}) dt_{t+1}, and the rotations go to B and C. Differentiable in
    every operand and state. float32 and float64 are computed as they are, bfloat16 and float16 in
    float32; on a GPU in PyTorch's matrix products.

    Args:
        x: The inputs, those of a rank last but one.
        dt: The step size.
        A: The logarithm of the decay per unit of step size; negative where the states decay.
        B: The input maps. The number of groups divides that of heads; head h is in group
            h // (heads / groups).
        C: The output maps, as B.
        share: Of the present input in the trapezoid, between 0 and 1 (lambda in the paper).
        angles: By which the states 0 and 1, 2 and 3, ... turn in this step: (a, b) becomes
            (a cos - b sin, a sin + b cos). Of fewer pairs than there are, the rest does not turn.
        initial_states: Those after the steps before; zeros if absent.
        reset: True where a new sequence starts: nothing from before that step is left.
        cu_seqlens: Bounds (0, ..., length) of the sequences packed into a batch of one, another
            way to write `reset`.
        seq_idx: The number of each step's sequence, a third way: a new one starts where it changes.
        backend: As in `gated_linear_attention`.

    Returns:
        y in the dtype of x, and what the last step leaves, float32 (float64 if all is).

    Raises:
        InputError: An operand has the wrong shape, dtype or device, or the backend is not for it.

    Examples:
        >>> x, B = torch.randn(2, 100, 4, 1, 16), torch.randn(2, 100, 1, 1, 8)
        >>> (dt, share), angles = torch.rand(2, 2, 100, 4), torch.randn(2, 100, 4, 4)
        >>> y, last = mamba3(x, dt, -torch.ones_like(dt), B, B, share, angles)
        >>> y.shape, last.states.shape
        (torch.Size([2, 100, 4, 1, 16]), torch.Size([2, 4, 16, 8]))
    """
    axes = ("batch", "length", "heads", "rank", "head_dim")
    mask = starts_of(reset, cu_seqlens, seq_idx, x, axes, "x")
    given, before = _checked((x, dt, A, B, C, share, angles), initial_states, axes[:2])
    if mask is not None:
        require_reset(mask, x.shape[:2], x.device, "x")
    if not x.shape[1]:
        return x.clone(), before
    with without_autocast(x.device):
        y, last = _scanned(given, before, mask, backend)
    return y.to(x.dtype), last


def mamba3_step(
    states: Mamba3States,
    x: Float[Tensor, "batch heads rank head_dim"],
    dt: Float[Tensor, "batch heads"],
    A: Float[Tensor, "batch heads"],
    B: Float[Tensor, "batch groups rank state"],
    C: Float[Tensor, "batch groups rank state"],
    share: Float[Tensor, "batch heads"],
    angles: Float[Tensor, "batch heads pairs"] | None = None,
) -> tuple[Float[Tensor, "batch heads rank head_dim"], Mamba3States]:
    """Advance `mamba3` by one position: the output there, and what the step leaves.

    The operands are those of `mamba3` without the axis of the length; `states` is left as it is.
    It is computed in PyTorch's operations, with gradients through both results.

    Raises:
        InputError: An operand has the wrong shape, dtype or device.

    Examples:
        >>> x, B, dt = torch.randn(1, 3, 2, 1, 4), torch.randn(1, 3, 1, 1, 6), torch.rand(1, 3, 2)
        >>> _, last = mamba3(x, dt, -dt, B, B, dt)
        >>> y, last = mamba3_step(last, x[:, 0], dt[:, 0], -dt[:, 0], B[:, 0], B[:, 0], dt[:, 0])
        >>> y.shape, last.states.shape
        (torch.Size([1, 2, 1, 4]), torch.Size([1, 2, 4, 6]))
    """
    given, before = _checked((x, dt, A, B, C, share, angles), states, ("batch",))
    with without_autocast(x.device):
        inputs, sizes, rates, B, C, now, turns = given
        heads = inputs.shape[1]
        h = _with_last(before, (1 - now) * sizes)
        if turns is not None:
            h = _turned(h, turns.unsqueeze(-2))
        decays, entering = (rates * sizes).exp(), now * sizes
        added = _per_head(inputs, B, heads)
        h = decays[..., None, None] * h + entering[..., None, None] * added
        y = (h.unsqueeze(2) @ _of_heads(C, heads).unsqueeze(-1)).squeeze(-1)
        return y.to(x.dtype), Mamba3States(h, inputs, B)


def _checked(
    operands: tuple[Any, ...], states: Mamba3States | None, rows: tuple[str, ...]
) -> tuple[list[Any], Mamba3States]:
    """Operands and states in the dtype that is computed in, where `rows` are axes before heads."""
    x, dt, A, B, C, share, angles = operands
    require_shape("x", x, (*rows, "heads", "rank", "head_dim"))
    *sizes, heads, rank, head_dim = x.shape
    for name, one in (("dt", dt), ("A", A), ("share", share)):
        require_shape(name, one, (*sizes, heads))
    require_shape("B", B, (*sizes, "groups", rank, "state"))
    groups, _, state = B.shape[-3:]
    require_groups("B", groups, heads, "heads")
    require_shape("C", C, tuple(B.shape))
    if angles is not None:
        require_shape("angles", angles, (*sizes, heads, "pairs"))
        if 2 * angles.shape[-1] > state:
            raise InputError(f"angles has {angles.shape[-1]} pairs of states, and B {state} states")
    names = ("x", "dt", "A", "B", "C", "share", "angles")
    named: dict[str, Any] = dict(zip(names, operands, strict=True))
    shapes = {
        "states": (x.shape[0], heads, head_dim, state),
        "states.x": (x.shape[0], heads, rank, head_dim),
        "states.B": (x.shape[0], groups, rank, state),
    }
    if states is not None:
        for (name, shape), one in zip(shapes.items(), states, strict=True):
            require_shape(name, one, shape)
            named[name] = one
    dtype = computing_dtype(named)
    given = [None if one is None else one.to(dtype) for one in operands]
    if states is None:
        return given, Mamba3States(*(x.new_zeros(one, dtype=dtype) for one in shapes.values()))
    return given, Mamba3States(*(one.to(dtype) for one in states))


def _of_heads(maps: Tensor, heads: int) -> Tensor:
    """Input or output maps of groups (third axis from behind) as those of heads."""
    return maps.repeat_interleave(heads // maps.shape[-3], dim=-3)


def _per_head(x: Tensor, B: Tensor, heads: int) -> Tensor:
    """x B^T, summed over ranks: (batch, heads, head_dim, state)."""
    return x.mT @ _of_heads(B, heads)


def _with_last(before: Mamba3States, weights: Tensor) -> Tensor:
    """The states before a step, with what the step before gave, times weights (batch, heads)."""
    last = _per_head(before.x, before.B, before.states.shape[1])
    return before.states + weights[..., None, None] * last


def _turned(states: Tensor, angles: Tensor) -> Tensor:
    """Pairs along the last axis turned by angles, whose last axis is one of pairs."""
    whole = 2 * angles.shape[-1]
    a, b = states[..., :whole].unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = (one.to(states.dtype) for one in (angles.cos(), angles.sin()))
    found = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    return torch.cat([found, states[..., whole:]], -1) if whole < states.shape[-1] else found


def _scanned(
    given: list[Any], before: Mamba3States, mask: Tensor | None, backend: Any
) -> tuple[Tensor, Mamba3States]:
    """One step of the attention for each rank of each step, of which the first one decays."""
    x, dt, A, B, C, share, angles = given
    heads, rank = x.shape[2:4]
    now, later = share * dt, (1 - share) * dt
    weights = now + F.pad(later[:, 1:], (0, 0, 0, 1))
    turned_B, turned_C, final = B, C, None
    if angles is not None:
        total = angles.double().cumsum(1)
        back = -total.unsqueeze(-2)  # The states are seen from where they would stand unturned.
        turned_B, turned_C = (_turned(_of_heads(one, heads), back) for one in (B, C))
        final = total[:, -1].unsqueeze(-2)
    logs = dt * A
    if rank > 1:
        logs = F.pad(logs.unsqueeze(2), (0, 0, 0, rank - 1)).flatten(1, 2)
        mask = None if mask is None else F.pad(mask.unsqueeze(2), (0, rank - 1)).flatten(1, 2)
    read, written, values = (one.transpose(2, 3).flatten(1, 2) for one in (turned_C, turned_B, x))
    y, states = gated_linear_attention(
        read,
        written,
        values,
        logs,
        weights.repeat_interleave(rank, dim=1),
        _with_last(before, later[:, 0]),
        True,
        reset=mask,
        backend=backend,
    )
    y = y.unflatten(1, (-1, rank)).transpose(2, 3)
    y = y + _at_once(x, B, C, now, weights)
    if final is not None:
        states = _turned(states, final)
    return y, Mamba3States(states, x[:, -1], B[:, -1])


def _at_once(x: Tensor, B: Tensor, C: Tensor, now: Tensor, weights: Tensor) -> Tensor:
    """What is missing of the inputs of a step in its own outputs, where `weights` are for later
    ones, and of ranks of which the attention did not know yet."""
    heads, rank = x.shape[2:4]
    scores = _of_heads(C @ B.mT, heads)  # of each output's and each input's rank
    known = torch.ones(rank, rank, dtype=x.dtype, device=x.device).tril()
    missing = now[..., None, None] - weights[..., None, None] * known
    found: Tensor = (scores * missing) @ x
    return found

"""The gradients of the delta rule in chunks; letters and names are those of `blocks`.

The states are computed again, and their gradients walk from the last chunk to the first.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from keelback.delta._operands import DeltaSizes, Operands, Options
from keelback.delta.chunked.blocks import Chunks, Inside
from keelback.delta.chunked.forward import by_step, start_of, states_through
from keelback.delta.reference import NORM_EPSILON


@dataclass(frozen=True)
class _Found:
    """Gradients of all chunks, each as its operand lies there; `logs` of the steps' own."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    logs: Tensor


def run_backward(
    given: Operands[Tensor], dy: Tensor | None, dlast: Tensor | None, options: Options
) -> Operands[Tensor]:
    """The gradients of every operand, from those of the output and of the last states."""
    sizes, chunks = DeltaSizes.of(given), Chunks.of(given, options)
    normalise, _, scale = options
    if dy is None:
        dy = torch.zeros_like(given.v)
    of_outputs = Chunks.of(given._replace(v=dy), options).v
    start = start_of(given)
    dh = torch.zeros_like(start) if dlast is None else dlast.flatten(0, 1)
    before = start.new_empty(*chunks.v.shape[:2], *start.shape[1:])
    found = _Found(
        torch.empty_like(chunks.q),
        torch.empty_like(chunks.k),
        torch.empty_like(chunks.v),
        torch.empty_like(chunks.beta),
        torch.empty_like(chunks.logs, dtype=given.v.dtype),
    )
    dstart = torch.empty_like(start)
    for rows, spans in chunks.parts():
        h = start[rows]
        for span in spans:
            inside = Inside.of(chunks.part(rows, span))
            h = states_through(inside, h, before[rows, span])
        of_state = dh[rows]
        for span in reversed(spans):
            part = chunks.part(rows, span)
            if len(spans) > 1:
                inside = Inside.of(part)
            here = (rows, span)
            of_state = _of_span(part, inside, before[here], of_outputs[here], of_state, found, here)
        dstart[rows] = of_state
    dq, dk = (by_step(x, sizes) for x in (found.q * scale, found.k))
    dq, dk = (x.unflatten(2, (sizes.groups, -1)).sum(3) for x in (dq, dk))
    if normalise:
        dq, dk = _before_norm(given.q, dq), _before_norm(given.k, dk)
    dg = by_step(found.logs, sizes)
    if given.reset is not None:  # Nothing is left to decay there.
        dg = dg.masked_fill(given.reset[:, :, None, None], 0.0)
    return Operands(
        q=dq,
        k=dk,
        v=by_step(found.v, sizes),
        g=dg if given.g.ndim == 4 else dg.squeeze(-1),
        beta=by_step(found.beta, sizes).squeeze(-1),
        initial_states=(
            None
            if given.initial_states is None
            else dstart.unflatten(0, (sizes.batch, sizes.heads))
        ),
    )


def _before_norm(x: Tensor, dnormed: Tensor) -> Tensor:
    """The gradient of x, from that of x / sqrt(|x|^2 + epsilon)."""
    inverse = torch.rsqrt(x.square().sum(-1, keepdim=True) + NORM_EPSILON)
    normed = x * inverse
    return inverse * (dnormed - normed * (normed * dnormed).sum(-1, keepdim=True))


def _of_span(
    chunks: Chunks,
    inside: Inside,
    before: Tensor,
    dy: Tensor,
    of_state: Tensor,
    found: _Found,
    here: tuple[slice, slice],
) -> Tensor:
    """The gradients of the operands of some chunks, and of the states before them.

    The gradient of a step's log decay is a sum over the pairs of steps that it lies between. Of a
    pair, what is added at the later of the two is taken away at the earlier one, and a sum over
    later steps leaves what lies between. A step's pair with itself is left out of both.
    """
    q, k, entering = chunks.q, chunks.k, inside.entering
    writes = torch.baddbmm(
        inside.written.flatten(0, 1), inside.erased.flatten(0, 1), before.flatten(0, 1), alpha=-1
    ).view_as(inside.written)
    dwrites, after, dstart = _adjoints_through(inside, dy, of_state)
    dsolved = inside.inverse.mT @ dwrites
    error = chunks.v - inside.entered_k @ before - inside.among_keys @ writes
    dv = chunks.beta * dsolved
    dkeys = (dv @ writes.mT).neg_().tril_(-1)
    dqueries = dy @ writes.mT
    itself = dqueries.diagonal(dim1=-2, dim2=-1).unsqueeze(-1).clone()
    dqueries = dqueries.tril_(-1)
    pairs = inside.pairs
    dq = entering * (dy @ before.mT) + pairs.of_left(dqueries, k)
    dk_read = pairs.of_left(dkeys, k) - entering * (dv @ before.mT)
    to_end = inside.leaving * (writes @ after.mT)
    dk_written = pairs.of_right(dkeys, k) + pairs.of_right(dqueries, q)
    moved = k * to_end
    moved[:, :, -1] = 0.0  # The last step's decay comes before what it writes.
    dlogs = q * dq + k * (dk_read - dk_written) - moved
    dlogs[:, :, -1] += moved.sum(2) + (inside.across * before * after).sum(-1)
    if found.logs.shape[-1] == 1:
        dlogs = dlogs.sum(-1, keepdim=True)
    found.q[here] = dq + itself * k
    found.k[here] = dk_read + dk_written + to_end + itself * q
    found.v[here] = dv
    found.beta[here] = (dsolved * error).sum(-1, keepdim=True)
    found.logs[here] = dlogs.flip(2).cumsum(2).flip(2)
    return dstart


def _adjoints_through(
    inside: Inside, dy: Tensor, of_state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of what steps write (r c t p), of the states after every chunk (r c d p), and
    of those before the first (r d p)."""
    across = inside.across
    dwrites = inside.to_queries.mT @ dy
    of_before = inside.entered_q.mT @ dy
    after = torch.empty_like(of_before)
    g = of_state
    for c in reversed(range(across.shape[1])):
        after[:, c] = g
        u = torch.baddbmm(dwrites[:, c], inside.left_k[:, c], g)
        dwrites[:, c] = u
        g = torch.addcmul(of_before[:, c], across[:, c], g)
        g = torch.baddbmm(g, inside.erased[:, c].mT, u, alpha=-1)
    return dwrites, after, g

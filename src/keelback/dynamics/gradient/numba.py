"""The closed-form gradient of gated SSMs as one fused CPU kernel.

A sequence is small enough to stay in the first-level cache from its tokens to its gradient, and a
sequence beyond the hinge stops after the forward pass, or is passed over while no step can have
brought it back (`_beyond_hinge`). Work is shared out in blocks of sequences,
so that one replica fills all cores as well as many do; the sums over blocks run in a fixed order.
Lengths, features and widths are padded with zeros to whole vector registers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, no_type_check

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.compiled import LANES
from keelback.compiled.jit import entry_kernel
from keelback.compiled.tiles import TILE_ROWS, add_product, prefetch, product
from keelback.dynamics.gradient.beyond_hinge import BeyondHinge
from keelback.dynamics.gradient.objective import HingeStep

_BLOCK = 64


def _kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function at its first call, and keep the machine code on disk where that can be.

    `fastmath` leaves out what would let the compiler assume that there are no infinities or NaNs.
    """
    options = {"fastmath": {"reassoc", "contract", "arcp", "nsz"}, **options}
    return partial(entry_kernel, **options)


def _padded(size: int, multiple: int = LANES) -> int:
    return -(-size // multiple) * multiple


@_kernel()
@no_type_check
def _dots(A, B, length, found):
    """Products of rows: found[row] = A[row] . B[row]."""
    for row in range(length):
        total = np.float32(0)
        for k in range(A.shape[1]):
            total += A[row, k] * B[row, k]
        found[row] = total


@_kernel()
@no_type_check
def _gates(tokens, w, length, g):
    one = np.float32(1)
    for row in range(length):
        logit = np.float32(0)
        for k in range(len(w)):
            logit += tokens[row, k] * w[k]
        g[row] = logit
    for row in range(length):
        g[row] = one / (one + np.exp(-g[row]))


@_kernel()
@no_type_check
def _attention(g, scores, length, G, P):
    """Rows of G(s, l) and of P = G * scores, each from the row before."""
    G[0, 0] = g[0]
    P[0, 0] = g[0] * scores[0, 0]
    for row in range(1, length):
        kept = np.float32(1) - g[row]
        for s in range(G.shape[1]):
            G[row, s] = kept * G[row - 1, s]
            P[row, s] = kept * G[row - 1, s] * scores[row, s]
        G[row, row] = g[row]
        P[row, row] = g[row] * scores[row, row]


@_kernel()
@no_type_check
def _output(hidden, v, length, sums):
    """v . relu(hidden), averaged over the rows."""
    zero = np.float32(0)
    sums[:] = zero
    for row in range(length):
        for i in range(len(sums)):
            value = hidden[row, i]
            sums[i] += value if value > zero else zero
    total = zero
    for i in range(len(v)):
        total += v[i] * sums[i]
    return total / np.float32(length)


@_kernel()
@no_type_check
def _activity(hidden, v, slope, length):
    """Replace every hidden value by slope * v_i where it is positive."""
    zero = np.float32(0)
    for row in range(length):
        for i in range(len(v)):
            hidden[row, i] = slope * v[i] if hidden[row, i] > zero else zero


@_kernel()
@no_type_check
def _gate_gradient(inflow, outflow, g, tokens, length, dw):
    """Add da_j x_j to dw, where da_j depends on what flows into j and across j."""
    crossing = np.float32(0)
    for j in range(length - 1, -1, -1):
        crossing += outflow[j] - inflow[j]
        inflow[j] = (np.float32(1) - g[j]) * inflow[j] - g[j] * crossing
    for j in range(length):
        for k in range(len(dw)):
            dw[k] += inflow[j] * tokens[j, k]


@_kernel()
@no_type_check
def _block(tokens, scores, signs, safe, w, W, W_t, v, sizes, weight, margins, dw, dW):
    """Margins of a block of sequences; with `weight` > 0 also adds their gradients to dw and dW.

    A sequence that is `safe` has the margin 1 and no gradient.
    """
    length, width = sizes
    length_p, dim_p = tokens.shape[1:]
    width_p = len(v)
    rows = (length + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    units = (width + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    tile = TILE_ROWS, dim_p
    G = np.zeros((length_p, length_p), np.float32)
    P = np.zeros((length_p, length_p), np.float32)
    y = np.zeros((length_p, dim_p), np.float32)
    u = np.zeros((length_p, dim_p), np.float32)
    z = np.zeros((length_p, dim_p), np.float32)
    hidden = np.zeros((length_p, width_p), np.float32)
    sums = np.zeros(width_p, np.float32)
    g = np.zeros(length_p, np.float32)
    inflow = np.zeros(length_p, np.float32)
    outflow = np.zeros(length_p, np.float32)
    for n in range(len(signs)):
        if n + 1 < len(signs) and not safe[n + 1]:
            for data in (tokens, scores):
                prefetch(data, (n + 1) * data[0].size, data[0].size)
        if safe[n]:
            margins[n] = 1
            continue
        _gates(tokens[n], w, length, g)
        _attention(g, scores[n], length, G, P)
        first = n * length_p * dim_p
        for row in range(0, rows, TILE_ROWS):
            product(P, row * length_p, length_p, 1, row + TILE_ROWS, tokens, first, dim_p,
                    y, row * dim_p, dim_p, tile)  # fmt: skip
        product(y, 0, dim_p, 1, dim_p, W_t, 0, width_p, hidden, 0, width_p, (rows, width_p))
        margin = signs[n] * _output(hidden, v, length, sums)
        margins[n] = margin
        if weight == 0 or margin >= 1:
            continue
        _activity(hidden, v, -signs[n] * weight / np.float32(length), length)
        product(hidden, 0, width_p, 1, width, W, 0, dim_p, u, 0, dim_p, (rows, dim_p))
        add_product(hidden, 0, 1, width_p, length, y, 0, dim_p, dW, 0, dim_p, (units, dim_p))
        for s in range(0, rows, TILE_ROWS):
            product(P, s * length_p + s, 1, length_p, rows - s, u, s * dim_p, dim_p,
                    z, s * dim_p, dim_p, tile)  # fmt: skip
        _dots(tokens[n], z, length, inflow)
        _dots(u, y, length, outflow)
        _gate_gradient(inflow, outflow, g, tokens[n], length, dw)


@_kernel(parallel=True)
@no_type_check
def _all_blocks(tokens, scores, signs, safe, w, W, W_t, v, sizes, weight, margins, dw, dW):
    replicas, blocks = dw.shape[:2]
    samples = signs.shape[1]
    for item in numba.prange(replicas * blocks):
        r, block = item // blocks, item % blocks
        start = block * _BLOCK
        stop = min(start + _BLOCK, samples)
        _block(
            tokens[r, start:stop],
            scores[r, start:stop],
            signs[r, start:stop],
            safe[r, start:stop],
            w[r],
            W[r],
            W_t[r],
            v,
            sizes,
            weight,
            margins[r, start:stop],
            dw[r, block],
            dW[r, block],
        )


@dataclass
class _NumbaHinge:
    """Padded data of a batch of replicas; see `HingeObjective`.

    Gradients are taken at weights that move little from one to the next; `beyond` remembers which
    samples that leaves beyond the hinge, and changes no result.
    """

    tokens: Tensor
    scores: Tensor
    signs: Tensor
    v: Tensor
    length: int
    dim: int
    beyond: BeyondHinge | None = None

    def margins(self, w: Tensor, W_O: Tensor) -> Tensor:
        """Compute z F(X) of every sample."""
        return self._run(w, W_O, 0.0, torch.zeros_like(self.signs, dtype=torch.bool))[0]

    def gradient(self, w: Tensor, W_O: Tensor) -> HingeStep:
        """Compute the mean hinge loss and its gradient."""
        if self.beyond is None:
            self.beyond = BeyondHinge.at(self.tokens, self.scores, w, W_O)
        else:
            self.beyond = self.beyond.moved_to(w, W_O, self.v)
        weight = 1.0 / self.signs.shape[1]
        margins, dw, dW = self._run(w, W_O, weight, self.beyond.safe())
        self.beyond = self.beyond.measured(margins, self.v)
        width = W_O.shape[1]
        return HingeStep(
            torch.relu(1 - margins).mean(1), dw[:, : self.dim], dW[:, :width, : self.dim]
        )

    def keep(self, replicas: Tensor) -> "_NumbaHinge":
        """Return the same data for these replicas alone."""
        return replace(
            self,
            tokens=self.tokens[replicas],
            scores=self.scores[replicas],
            signs=self.signs[replicas],
            beyond=self.beyond and self.beyond.keep(replicas),
        )

    def _run(
        self, w: Tensor, W_O: Tensor, weight: float, safe: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        replicas, samples, _, dim_p = self.tokens.shape
        width = W_O.shape[1]
        width_p = _padded(width)
        W = F.pad(W_O, (0, dim_p - self.dim, 0, width_p - width))
        blocks = -(-samples // _BLOCK)
        margins = torch.empty(replicas, samples)
        dw = torch.zeros(replicas, blocks, dim_p)
        dW = torch.zeros(replicas, blocks, width_p, dim_p)
        _all_blocks(
            self.tokens.numpy(),
            self.scores.numpy(),
            self.signs.numpy(),
            safe.numpy(),
            F.pad(w, (0, dim_p - self.dim)).numpy(),
            W.numpy(),
            W.mT.contiguous().numpy(),
            F.pad(self.v, (0, width_p - width)).numpy(),
            (self.length, width),
            np.float32(weight),
            margins.numpy(),
            dw.numpy(),
            dW.numpy(),
        )
        return margins, dw.sum(1), dW.sum(1)


def numba_hinge(tokens: Tensor, signs: Tensor, v: Tensor, scores: Tensor) -> _NumbaHinge:
    """Pad the data of a batch of replicas for the kernel."""
    length, dim = tokens.shape[2:]
    more = _padded(length) - length
    padded = F.pad(tokens, (0, _padded(dim) - dim, 0, more))
    return _NumbaHinge(
        tokens=padded,
        scores=F.pad(scores.tril(), (0, more, 0, more)),
        signs=signs.contiguous(),
        v=v,
        length=length,
        dim=dim,
    )

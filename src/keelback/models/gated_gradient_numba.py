"""The closed-form gradient of gated SSMs as one fused CPU kernel.

A sequence is small enough to stay in the first-level cache from its tokens to its gradient, and a
sequence beyond the hinge stops after the forward pass. Work is shared out in blocks of sequences,
so that one replica fills all cores as well as many do; the sums over blocks run in a fixed order.
Lengths, features and widths are padded with zeros to whole vector registers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, no_type_check

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.models.gated_gradient import HingeStep

_LANES = 16
_BLOCK = 64


def _kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function at its first call, and keep the machine code on disk where that can be.

    `fastmath` leaves out what would let the compiler assume that there are no infinities or NaNs.
    """
    options = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "arcp", "nsz"},
        **options,
    }

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # Numba found no place for its cache.
            return numba.njit(**options)(function)

    return compiled


def _padded(size: int, multiple: int = _LANES) -> int:
    return -(-size // multiple) * multiple


@_kernel()
@no_type_check
def _add_product(A, B, C, rows, inner, columns):
    """C[:rows, :columns] += A[:rows, :inner] B[:inner, :columns]; rows are even, inner of fours."""
    for i in range(0, rows, 2):
        for k in range(0, inner, 4):
            a0, a1, a2, a3 = A[i, k], A[i, k + 1], A[i, k + 2], A[i, k + 3]
            b0, b1, b2, b3 = A[i + 1, k], A[i + 1, k + 1], A[i + 1, k + 2], A[i + 1, k + 3]
            for j in range(columns):
                x0, x1, x2, x3 = B[k, j], B[k + 1, j], B[k + 2, j], B[k + 3, j]
                C[i, j] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                C[i + 1, j] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3


@_kernel()
@no_type_check
def _gates(tokens_t, w, g):
    one = np.float32(1)
    g[:] = 0
    for k in range(len(w)):
        for position in range(len(g)):
            g[position] += tokens_t[k, position] * w[k]
    for position in range(len(g)):
        g[position] = one / (one + np.exp(-g[position]))


@_kernel()
@no_type_check
def _attention(g, scores, length, G, P):
    """Rows of G(s, l) and of P = G * scores, each from the row before."""
    one = np.float32(1)
    G[0, 0] = g[0]
    P[0, 0] = g[0] * scores[0, 0]
    for row in range(1, length):
        kept = one - g[row]
        for s in range(G.shape[1]):
            G[row, s] = kept * G[row - 1, s]
        G[row, row] = g[row]
        for s in range(G.shape[1]):
            P[row, s] = G[row, s] * scores[row, s]


@_kernel()
@no_type_check
def _output(hidden, v, length):
    zero = np.float32(0)
    total = zero
    for row in range(length):
        for i in range(len(v)):
            value = hidden[row, i]
            total += v[i] * (value if value > zero else zero)
    return total / np.float32(length)


@_kernel()
@no_type_check
def _activity(hidden, v, slope, length, width, active_t):
    """Replace every hidden value by slope * v_i where it is positive; also transposed."""
    zero = np.float32(0)
    for row in range(length):
        for i in range(len(v)):
            hidden[row, i] = slope * v[i] if hidden[row, i] > zero else zero
    for i in range(width):
        for row in range(length):
            active_t[i, row] = hidden[row, i]


@_kernel()
@no_type_check
def _gate_gradient(D, scores, G, g, tokens, length, adjoint, dw):
    """Walk back through G: row l carries (1 - g_l) times row l-1, and g_l on its diagonal."""
    one = np.float32(1)
    adjoint[:] = 0
    kept = np.float32(0)
    for row in range(length - 1, -1, -1):
        crossing = np.float32(0)
        for s in range(len(adjoint)):
            value = adjoint[s] * kept + D[row, s] * scores[row, s]
            adjoint[s] = value
            if row > 0:
                crossing += value * G[row - 1, s]
        kept = one - g[row]
        da = (adjoint[row] - crossing) * g[row] * kept
        for k in range(len(dw)):
            dw[k] += da * tokens[row, k]


@_kernel()
@no_type_check
def _block(tokens, tokens_t, scores, signs, w, W, W_t, v, sizes, weight, margins, dw, dW):
    """Margins of a block of sequences; with `weight` > 0 also adds their gradients to dw and dW."""
    length, width = sizes
    length_p, dim_p = tokens.shape[1:]
    width_p = len(v)
    rows = (length + 3) // 4 * 4
    units = (width + 3) // 4 * 4
    G = np.zeros((length_p, length_p), np.float32)
    P = np.zeros((length_p, length_p), np.float32)
    D = np.zeros((length_p, length_p), np.float32)
    y = np.zeros((length_p, dim_p), np.float32)
    u = np.zeros((length_p, dim_p), np.float32)
    hidden = np.zeros((length_p, width_p), np.float32)
    active_t = np.zeros((width_p, length_p), np.float32)
    g = np.zeros(length_p, np.float32)
    adjoint = np.zeros(length_p, np.float32)
    for n in range(len(signs)):
        _gates(tokens_t[n], w, g)
        _attention(g, scores[n], length, G, P)
        y[:] = 0
        hidden[:] = 0
        for row in range(0, rows, 4):
            _add_product(P[row:], tokens[n], y[row:], 4, row + 4, dim_p)
        _add_product(y, W_t, hidden, rows, dim_p, width_p)
        margin = signs[n] * _output(hidden, v, length)
        margins[n] = margin
        if weight == 0 or margin >= 1:
            continue
        slope = -signs[n] * weight / np.float32(length)
        _activity(hidden, v, slope, length, width, active_t)
        u[:] = 0
        D[:] = 0
        _add_product(hidden, W, u, rows, units, dim_p)
        _add_product(active_t, y, dW, units, rows, dim_p)
        for row in range(0, rows, 4):
            _add_product(u[row:], tokens_t[n], D[row:], 4, dim_p, length_p)
        _gate_gradient(D, scores[n], G, g, tokens[n], length, adjoint, dw)


@_kernel(parallel=True)
@no_type_check
def _all_blocks(tokens, tokens_t, scores, signs, w, W, W_t, v, sizes, weight, margins, dw, dW):
    replicas, blocks = dw.shape[:2]
    samples = signs.shape[1]
    for item in numba.prange(replicas * blocks):
        r, block = item // blocks, item % blocks
        start = block * _BLOCK
        stop = min(start + _BLOCK, samples)
        _block(
            tokens[r, start:stop],
            tokens_t[r, start:stop],
            scores[r, start:stop],
            signs[r, start:stop],
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


@dataclass(frozen=True)
class _NumbaHinge:
    """Padded data of a batch of replicas; see `HingeObjective`."""

    tokens: Tensor
    tokens_t: Tensor
    scores: Tensor
    signs: Tensor
    v: Tensor
    length: int
    dim: int

    def margins(self, w: Tensor, W_O: Tensor) -> Tensor:
        """Compute z F(X) of every sample."""
        return self._run(w, W_O, weight=0.0)[0]

    def gradient(self, w: Tensor, W_O: Tensor) -> HingeStep:
        """Compute the mean hinge loss and its gradient."""
        margins, dw, dW = self._run(w, W_O, weight=1.0 / self.signs.shape[1])
        width = W_O.shape[1]
        return HingeStep(
            torch.relu(1 - margins).mean(1), dw[:, : self.dim], dW[:, :width, : self.dim]
        )

    def keep(self, replicas: Tensor) -> "_NumbaHinge":
        """Return the same data for these replicas alone."""
        return replace(
            self,
            tokens=self.tokens[replicas],
            tokens_t=self.tokens_t[replicas],
            scores=self.scores[replicas],
            signs=self.signs[replicas],
        )

    def _run(self, w: Tensor, W_O: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
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
            self.tokens_t.numpy(),
            self.scores.numpy(),
            self.signs.numpy(),
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
        tokens_t=padded.mT.contiguous(),
        scores=F.pad(scores.tril(), (0, more, 0, more)),
        signs=signs.contiguous(),
        v=v,
        length=length,
        dim=dim,
    )

"""Loss and gradient of many gated SSMs on sequences without noise, where they are much cheaper.

Without noise a token is a feature itself, tokens of different features are orthogonal, and with
W_B^T W_C = I the state seen by token l is `y_l = c_l o_f` with f its feature and

    c_l = sum of G(s, l) over s <= l with the feature of l      (all positive)

so that W_O enters through its read-outs `A_k = sum_i v_i relu(W_O[i, k])` alone:

    F = 1/L sum_l A_f(l) c_l.

With p the last place before l that has the same feature, and D the gates' decay from p to l,

    c_l = g_l + D c_p,     D = prod_{p < j <= l} (1 - g_j),

one pass forward, and one back, of a few operations per token: nothing grows with the number of
features or hidden units. The gradient of a read-out is shared out as dA_k v_i [W_O[i, k] > 0].
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from keelback.dynamics.gradient.objective import HingeStep

_BLOCK = 64

Swept = tuple[Tensor, Tensor, Tensor]
"""Margins (replicas, samples), and gradients in w and in the read-outs A, both (replicas, dim)."""

Sweep = Callable[[Tensor, Tensor, Tensor, Tensor, bool], Swept]
"""From features, signs, w, read-outs and whether gradients are wanted."""


@dataclass(frozen=True)
class CleanHinge:
    """Sequences of features of a batch of replicas; see `HingeObjective`."""

    features: Int[Tensor, "replicas samples length"]
    signs: Float[Tensor, "replicas samples"]
    v: Float[Tensor, " width"]
    sweep: Sweep

    def margins(self, w: Tensor, W_O: Tensor) -> Tensor:
        """Compute z F(X) of every sample."""
        return self.sweep(self.features, self.signs, w, self._readouts(W_O), False)[0]

    def gradient(self, w: Tensor, W_O: Tensor) -> HingeStep:
        """Compute the mean hinge loss and its gradient."""
        margins, dw, dA = self.sweep(self.features, self.signs, w, self._readouts(W_O), True)
        v = self.v.to(W_O.dtype)[:, None]
        return HingeStep(torch.relu(1 - margins).mean(1), dw, v * (W_O > 0) * dA[:, None, :])

    def keep(self, replicas: Tensor) -> "CleanHinge":
        """Return the same data for these replicas alone."""
        return replace(self, features=self.features[replicas], signs=self.signs[replicas])

    def _readouts(self, W_O: Tensor) -> Tensor:
        return (torch.relu(W_O) * self.v.to(W_O.dtype)[:, None]).sum(1)


@numba.njit(nogil=True, error_model="numpy", cache=True)
@no_type_check
def _sequence(features, sign, g, log_kept, A, weight, work, last, dw, dA):
    """Margin of one sequence; with `weight` > 0 and inside the hinge also adds its gradients."""
    length = len(features)
    kept, c, decay, back = work
    before = last[1]
    total = 0.0
    output = 0.0
    for place in range(length):
        f = features[place]
        total += log_kept[f]
        kept[place] = total
        p = last[0, f]
        before[place] = p
        c[place] = g[f]
        if p >= 0:
            decay[place] = np.exp(total - kept[p])
            c[place] += decay[place] * c[p]
        last[0, f] = place
        output += A[f] * c[place]
    for place in range(length):
        last[0, features[place]] = -1
    margin = sign * output / length
    if weight == 0 or margin >= 1:
        return margin
    slope = -sign * weight / length
    back[:] = 0
    crossing = 0.0
    ends = kept
    ends[:] = 0
    for place in range(length - 1, -1, -1):
        f, p = features[place], before[place]
        dA[f] += slope * c[place]
        through = A[f] + back[place]
        crossing -= ends[place]
        if p >= 0:
            flow = through * decay[place]
            back[p] = flow
            flow *= c[p]
            crossing += flow
            ends[p] = flow
        dw[f] += slope * g[f] * (through * (1 - g[f]) - crossing)
    return margin


@numba.njit(nogil=True, error_model="numpy", cache=True, parallel=True)
@no_type_check
def _all_sequences(features, signs, w, A, weight, margins, dw, dA):
    replicas, blocks = dw.shape[:2]
    samples, length = features.shape[1:]
    dim = w.shape[1]
    for item in numba.prange(replicas * blocks):
        r, block = item // blocks, item % blocks
        g = np.empty(dim)
        log_kept = np.empty(dim)
        for k in range(dim):
            small = np.exp(-abs(w[r, k]))
            g[k] = 1 / (1 + small) if w[r, k] > 0 else small / (1 + small)
            log_kept[k] = -(max(w[r, k], 0.0) + np.log1p(small))
        work = np.empty((4, length))
        last = np.full((2, max(length, dim)), -1, np.int64)
        for n in range(block * _BLOCK, min((block + 1) * _BLOCK, samples)):
            margins[r, n] = _sequence(
                features[r, n], signs[r, n], g, log_kept, A[r], weight, work, last,
                dw[r, block], dA[r, block],
            )  # fmt: skip


def sweep_on_cpu(features: Tensor, signs: Tensor, w: Tensor, A: Tensor, gradient: bool) -> Swept:
    """One pass over all sequences by the Numba kernel, in float64."""
    replicas, samples, _ = features.shape
    dim = w.shape[1]
    blocks = -(-samples // _BLOCK)
    margins = np.empty((replicas, samples))
    dw, dA = np.zeros((2, replicas, blocks, dim))
    _all_sequences(
        features.numpy(),
        signs.numpy(),
        w.double().numpy(),
        A.double().numpy(),
        1.0 / samples if gradient else 0.0,
        margins,
        dw,
        dA,
    )
    dtype = w.dtype
    found = (torch.from_numpy(part).to(dtype) for part in (margins, dw.sum(1), dA.sum(1)))
    return next(found), next(found), next(found)

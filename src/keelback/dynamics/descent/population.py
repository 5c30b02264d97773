"""Gradient descent on the exact population of locality data without noise: five numbers.

Start from a read-out that is zero on irrelevant features. Its gradient there is zero and stays so,
and irrelevant features are alike, so w has one value on all of them. Then F depends on a sequence
through its class and through how its two pairs lie to each other, and there are three ways to:

    apart        no token of one pair between the tokens of the other,
    interleaved  one and one,
    nested       both tokens of the near pair between those of the far one.

With g and g' the gates of a pair's own feature and of the other pair's, g_0 that of irrelevant
features, k tokens between, of which b of the other pair, and L the length, a pair adds

    C / L,   C = 2 g + g (1 - g) (1 - g')^b (1 - g_0)^(k - b)

times the read-out a of its feature to F. So the mean of the hinge loss over all sequences is a sum
of six terms, its gradient is exact, and a step takes a fraction of a microsecond at any length and
number of features. Only the start differs from a training that draws data, where the read-outs of
irrelevant features are as small and random as the others.
"""

from typing import no_type_check

import numba
import numpy as np
import torch

from keelback.dynamics.descent.batch import initial_weights
from keelback.dynamics.descent.history import GatedHistory, Log, Measures, measured_epochs
from keelback.dynamics.descent.training import GatedTraining
from keelback.dynamics.gated import class_readout
from keelback.dynamics.patterns import Locality


def arrangements(pattern: Locality) -> tuple[np.ndarray, np.ndarray]:
    """How the two pairs can lie to each other, and how often they do.

    Returns:
        Tokens of the far pair inside the near one and of the near pair inside the far one, shape
        (kinds, 2), and the share of placements of each kind, shape (kinds,).
    """
    near, far = pattern.placements.T
    inside = [
        sum((first < other + k).astype(int) & (other + k < first + gap) for k in (0, other_gap))
        for first, gap, other, other_gap in (
            (near, pattern.near, far, pattern.far),
            (far, pattern.far, near, pattern.near),
        )
    ]
    kinds, counts = np.unique(np.stack(inside, 1), axis=0, return_counts=True)
    return kinds, counts / counts.sum()


@numba.njit(nogil=True, error_model="numpy", cache=True)
@no_type_check
def _outputs(sizes, kinds, w, a, F, dF):
    """F of every kind and class, and its gradient in w_+, w_-, w_0, a_+, a_-."""
    near, far, length = sizes
    g = 1 / (1 + np.exp(-w))
    for kind in range(len(kinds)):
        for z in range(2):
            own, other = z, 1 - z
            row = 2 * kind + z
            F[row] = 0
            dF[row] = 0
            for pair in range(2):
                mine, theirs = (own, other) if pair == 0 else (other, own)
                within = kinds[kind, pair]
                rest = (near if pair == 0 else far) - 1 - within
                kept = (1 - g[theirs]) ** within * (1 - g[2]) ** rest
                inflow = g[mine] * (1 - g[mine])
                C = 2 * g[mine] + inflow * kept
                F[row] += a[mine] * C / length
                dF[row, mine] += a[mine] * inflow * (2 + kept * (1 - 2 * g[mine])) / length
                dF[row, theirs] -= a[mine] * inflow * kept * within * g[theirs] / length
                dF[row, 2] -= a[mine] * inflow * kept * rest * g[2] / length
                dF[row, 3 + mine] += C / length


@numba.njit(nogil=True, error_model="numpy", cache=True)
@no_type_check
def _advance(sizes, kinds, shares, w, W, v, rates, symmetry, steps, factors):
    """Take `steps` steps; w and W (features, units) change in place. Returns the summed factors."""
    F, dF = np.empty(2 * len(kinds)), np.empty((2 * len(kinds), 5))
    a = np.empty(2)
    factor, epoch, decay = factors
    progress = 0.0
    for step in range(steps):
        a[:] = 0
        for k in range(2):
            for i in range(len(v)):
                if W[k, i] > 0:
                    a[k] += v[i] * W[k, i]
        _outputs(sizes, kinds, w, a, F, dF)
        gradient = np.zeros(5)
        for row in range(len(F)):
            z = 1 - 2 * (row % 2)
            if z * F[row] < 1:
                for k in range(5):
                    gradient[k] -= z * shares[row // 2] / 2 * dF[row, k]
        if symmetry > 0:
            gradient[3] = (gradient[3] - gradient[4]) / 2
            gradient[4] = -gradient[3]
        if symmetry > 1:
            gradient[0] = (gradient[0] + gradient[1]) / 2
            gradient[1] = gradient[0]
        here = factor if decay == 0 else 1 / (1 + (epoch + step) / decay)
        progress += here
        w -= here * rates[:3] * gradient[:3]
        for k in range(2):
            change = here * rates[3] * gradient[3 + k]
            for i in range(len(v)):
                if W[k, i] > 0:
                    W[k, i] -= change * v[i]
    return progress


class _Population:
    """The state of one descent."""

    def __init__(self, training: GatedTraining) -> None:
        assert isinstance(training.pattern, Locality)
        self._training, pattern = training, training.pattern
        self._sizes = (pattern.near, pattern.far, pattern.length)
        self._kinds, self._shares = arrangements(pattern)
        self.w = np.zeros(3)
        self.W = initial_weights(training)[0][:, :2].T.double().numpy().copy()
        self._v = class_readout(training.width)[:, 0].double().numpy()
        irrelevant = pattern.dim - 2
        gate = training.eta_gate
        self._rates = np.array([gate, gate, gate / irrelevant, training.eta_out])
        self._symmetry = ("none", "readout", "model").index(training.symmetry)
        self.progress = 0.0
        self._factor = 1.0

    def outputs(self) -> tuple[np.ndarray, np.ndarray]:
        """F of every kind and class (z = +1 before z = -1), and its gradient."""
        F, dF = np.empty(2 * len(self._kinds)), np.empty((2 * len(self._kinds), 5))
        _outputs(self._sizes, self._kinds, self.w, self._v @ np.maximum(self.W.T, 0), F, dF)
        return F, dF

    def sharpness(self) -> float:
        """Largest eigenvalue of J D J^T, weighted by the shares; see `sharpness`."""
        _, dF = self.outputs()
        active = self._v**2 @ (self.W.T > 0)
        if self._symmetry > 0:
            dF[:, 3:] = (dF[:, 3:] - dF[:, :2:-1]) / 2
        if self._symmetry > 1:
            dF[:, :2] = (dF[:, :2] + dF[:, 1::-1]) / 2
        scale = np.sqrt(np.concatenate([self._rates[:3], self._rates[3] * active]))
        rows = dF * scale * np.sqrt(np.repeat(self._shares, 2) / 2)[:, None]
        if not np.isfinite(rows).all():
            return np.inf
        return float(np.linalg.norm(rows, 2) ** 2)

    def measure(self) -> Measures:
        F, _ = self.outputs()
        margins = F * np.tile([1, -1], len(self._kinds))
        chance = np.repeat(self._shares, 2) / 2
        loss = float(chance @ np.maximum(0, 1 - margins))
        ahead = np.sign(F[::2, None] - F[None, 1::2])
        gating = np.full(self._training.pattern.dim, self.w[2])
        gating[:2] = self.w[:2]
        return Measures(
            train_loss=loss,
            test_loss=loss,
            test_accuracy=float(chance @ (margins > 0)),
            finite=bool(np.isfinite(self.w).all() and np.isfinite(self.W).all()),
            test_ranking=float(self._shares @ ((1 + ahead) / 2) @ self._shares),
            progress=self.progress,
            gating=gating,
        )

    def advance(self, epoch: int, steps: int) -> None:
        training = self._training
        decay = training.decay if training.schedule == "decaying" else 0.0
        if training.schedule == "stable":
            self._factor = min(1.0, training.stability / max(self.sharpness(), 1e-300))
        self.progress += _advance(
            self._sizes,
            self._kinds,
            self._shares,
            self.w,
            self.W,
            self._v,
            self._rates,
            self._symmetry,
            steps,
            (self._factor, epoch, decay),
        )

    def readout(self) -> torch.Tensor:
        W_O = torch.zeros(len(self._v), self._training.pattern.dim, dtype=torch.float64)
        W_O[:, :2] = torch.from_numpy(self.W.T)
        return W_O


def descend_population(training: GatedTraining) -> GatedHistory:
    """Train on the exact mean over all sequences, whatever `samples` and `test_samples` say.

    Train and test losses are the same number; W_O starts at zero on irrelevant features.
    """
    population, log = _Population(training), Log(training)
    times = measured_epochs(training.epochs)
    for epoch, after in zip(times, [*times[1:], training.epochs + 1], strict=True):
        log.add(epoch, population.measure())
        if log.done(epoch == training.epochs):
            break
        population.advance(epoch, after - epoch)
    return log.history(population.readout())

r"""The two modes in which a gated SSM learns locality: what grows, how fast, with which exponent.

Take locality data without noise, infinitely many, a small start, and steps small enough to be a
flow. With a_+- the read-outs of o_+ and o_-, and g the gates (see `descent.population`), F of a
sequence of class z has two parts:

    common    (a_+ + a_-) (2 g + ...) / L       the same for both classes
    signal    z (a_+ - a_-) s / (2 L)           what tells them apart

where s = C_near - C_far, the mean over placements, is what a near pair leaves more than a far one:
with the classes' gates at one half and q = 1 - g_0 the share that an irrelevant token lets stand,

    s(q) = (q^(near-1) - q^(far-1)) / 4 for pairs apart;    s = gap / 2 at the start (q = 1/2),

gap = 2^-near - 2^-far. While every sequence is inside the hinge, both classes pull the common part
with the same force in opposite directions, and it rests. The signal D = a_+ - a_- and the
irrelevant gates u = -<w, o> (each of d - 2 features) grow as

    D' = eta_out active s / (2 L)            u' = eta_gate D (ds/du) / (2 L (d - 2))

with `active` the sum over o_+ and o_- of the share of hidden units (each with v^2 = 1/m) that carry
the read-out; a half, where the start is small: a quarter of all have the right sign of v and
W_O > 0. The mean loss is 1 - D s / (2 L) until the first sequence leaves the hinge. Two limits:

**Frozen gate** (s does not move before D is large): the loss falls in proportion to time and

    T(loss) = (1 - loss) 16 L^2 / (active eta_out gap^2)        exponent -2.

**Gate first** (the gate closes for irrelevant tokens while the loss is still near 1): s grows as
exp(u (near - 1) / 2), which sets in at

    T_gate = 16 L sqrt((d - 2) / (2 active eta_gate eta_out)) / ((near - 1) gap)    exponent -1,

up to the factor near - 1, a logarithm of the gap; after that the loss falls at a rate that hardly
depends on the separation, in a time of 4 L^2 / (active eta_out s_max^2). Which one it is says

    T_gate / T_frozen ~ gap sqrt((d - 2) eta_out / eta_gate) / (L (near - 1)):

above 1 the gate is as good as frozen, below 1 it comes first. With one step size and d of the order
of L^2 or less the gate always comes first as near grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, sqrt

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from keelback.dynamics.descent.population import arrangements
from keelback.dynamics.gated import class_readout
from keelback.dynamics.gradient import hinge_objective
from keelback.dynamics.noise import Noise
from keelback.dynamics.patterns import Locality, sample_patterns, stream
from keelback.errors import InputError

Array = np.ndarray

_POINTS = 2000
_CEILING = 9

ACTIVE = 0.5
"""Shares of hidden units that carry the read-outs of o_+ and o_-, added up; of a small start."""


@dataclass(frozen=True)
class TwoModes:
    """The flow of the signal and of the irrelevant gates for one setting.

    Attributes:
        pattern: near, far, L and d.
        eta_gate, eta_out: step sizes of w and W_O.
        active: see the module; measured on a start with `active_share`.

    Examples:
        >>> modes = TwoModes(Locality(near=1, far=4, length=8, dim=8), eta_gate=0.1, eta_out=0.1)
        >>> modes.gate_epochs  # near = 1: no irrelevant token lies inside the pair
        inf
    """

    pattern: Locality
    eta_gate: float
    eta_out: float
    active: float = ACTIVE

    def signal(self, u: Float[Array, "..."]) -> tuple[Array, Array]:
        """s at u, mean over placements, and ds/du; the classes' gates stand at one half."""
        per_kind, slopes = self._signals(np.asarray(u, dtype=np.float64))
        shares = self._kinds[1]
        return per_kind @ shares, slopes @ shares

    @cached_property
    def _kinds(self) -> tuple[Array, Array]:
        return arrangements(self.pattern)

    def _signals(self, u: Array) -> tuple[Array, Array]:
        kinds, _ = self._kinds
        kept = 1 / (1 + np.exp(-u))[..., None]
        parts = []
        for between, other in (
            (self.pattern.near - 1, kinds[:, 0]),
            (self.pattern.far - 1, kinds[:, 1]),
        ):
            rest = between - other
            value = 0.25 * 0.5**other * kept**rest
            parts.append((value, value * rest * (1 - kept)))
        (near, near_slope), (far, far_slope) = parts
        return near - far, near_slope - far_slope

    @property
    def gate_epochs(self) -> float:
        """T_gate, after which the gate's closing speeds up the signal; infinite for near = 1."""
        if self.pattern.near == 1:
            return inf
        spread = sqrt((self.pattern.dim - 2) / (2 * self.active * self.eta_gate * self.eta_out))
        return 16 * self.pattern.length * spread / ((self.pattern.near - 1) * self.pattern.gap)

    def frozen_epochs(self, loss: float) -> float:
        """T(loss) with the gates at one half."""
        pattern = self.pattern
        return (1 - loss) * 16 * pattern.length**2 / (self.active * self.eta_out * pattern.gap**2)

    def epochs(self, loss: float) -> float | None:
        """Steps to a mean loss by the two modes.

        `None` where the first sequences leave the hinge before, which ends the two modes.

        Raises:
            InputError: for a loss that is not below 1.
        """
        if not loss < 1:
            raise InputError(f"two modes: the loss starts at 1; ask for one below it, not {loss}")
        course = self.course
        if loss < course.loss[-1]:
            return None
        return float(np.interp(-loss, -course.loss, course.steps))

    @cached_property
    def course(self) -> "Course":
        """The flow from zero until the first sequences leave the hinge.

        Raises:
            InputError: they do not.
        """
        from scipy.integrate import solve_ivp  # slow to import

        pattern = self.pattern
        rate = self.eta_out * self.active / (2 * pattern.length)
        gate = self.eta_gate / (2 * pattern.length * (pattern.dim - 2))

        def flow(_: float, state: Array) -> Array:
            s, slope = self.signal(state[1])
            return np.array([rate * s, gate * state[0] * slope])

        def leaves(_: float, state: Array) -> float:
            margin = state[0] * self._signals(np.array(state[1]))[0].max() / (2 * pattern.length)
            return float(margin - 1)

        leaves.terminal = True  # type: ignore[attr-defined]
        # A signal that grows, or one of near = 1 that shrinks to a half, is there within this.
        longest = 4 * self.frozen_epochs(0.0)
        solved = solve_ivp(
            flow, (0, longest), [0.0, 0.0], "LSODA", events=leaves, rtol=1e-9, atol=1e-12,
            dense_output=True,
        )  # fmt: skip
        if not len(solved.t_events[0]):
            raise InputError("two modes: the flow does not reach the hinge in this setting")
        steps = np.concatenate([[0.0], np.geomspace(1e-6, 1, _POINTS) * solved.t[-1]])
        D, u = solved.sol(steps)
        return Course(steps, D, u, 1 - D * self.signal(u)[0] / (2 * pattern.length))


@dataclass(frozen=True)
class Course:
    """The two modes over time: steps, D, u and the mean loss, each of shape (points,)."""

    steps: Array
    D: Array
    u: Array
    loss: Array


def active_share(W_O: Float[Tensor, "width dim"]) -> float:
    """Shares of hidden units that will carry o_+ and o_-: v > 0 and v < 0, with W_O > 0 there.

    Examples:
        >>> active_share(torch.tensor([[0.1, -0.1], [-0.1, 0.2]]))
        1.0
    """
    half = len(W_O) // 2
    return float((W_O[:half, 0] > 0).sum() + (W_O[half:, 1] > 0).sum()) / len(W_O)


def best_two_mode_accuracy(
    pattern: Locality,
    noise: Noise,
    *,
    u: Sequence[float] = tuple(np.linspace(0, 2.5, 11)),
    class_gate: Sequence[float] = tuple(np.linspace(-2, 0.5, 6)),
    samples: int = 4000,
    seed: int = 0,
) -> float:
    """The most accurate of all models that consist of the two modes alone, under noise.

    Their read-outs are o_+ for one hidden unit and o_- for the other, zero elsewhere; their gates
    have one value on o_+- and another, -u, on all irrelevant features, tried on a grid. Noise
    reaches F through relu(W_O y) of tokens that carry no class feature, in proportion to the
    signal: no size of the read-out helps.

    Args:
        pattern: the task.
        noise: of the tokens.
        u: values of -<w, o> on irrelevant features to try.
        class_gate: values of <w, o_+-> to try.
        samples: sequences that each model is scored on; paired.
        seed: of those sequences.

    Examples:
        >>> pattern = Locality(near=2, far=4, length=8, dim=8)
        >>> noise = GaussianNoise(scale=0.01)
        >>> best_two_mode_accuracy(pattern, noise, u=[1.0], class_gate=[0.0], samples=100) > 0.5
        True
    """
    data = sample_patterns(pattern, samples, noise, stream(seed, _CEILING), paired=True)
    W_O = torch.eye(2, pattern.dim)[None]
    objective = hinge_objective(data.tokens[None], data.signs[None], class_readout(2)[:, 0])
    best = 0.0
    for closed in u:
        for own in class_gate:
            w = torch.full((1, pattern.dim), -float(closed))
            w[0, :2] = float(own)
            accuracy = (objective.margins(w, W_O) > 0).float().mean()
            best = max(best, float(accuracy))
    return best

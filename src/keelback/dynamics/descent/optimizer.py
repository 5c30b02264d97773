"""How a batch of replicas turns gradients into steps: gradient descent, momentum, Adam.

Every replica has its own step sizes. All arithmetic is element by element, so that a replica gets
what it would get alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from keelback.dynamics.descent.training import GatedTraining

_ADAM_SECOND, _ADAM_EPS = 0.999, 1e-8
"""Adam's second decay and the number added to the root (Kingma and Ba 2015)."""

Weights = tuple[Float[Tensor, "replicas dim"], Float[Tensor, "replicas width dim"]]
"""w and W_O of a batch, or their gradients, or their changes."""


@runtime_checkable
class Optimizer(Protocol):
    """Turns the gradients of a batch into the weights after the step."""

    def step(self, weights: Weights, gradient: Weights, rates: "Rates") -> Weights:
        """Return w and W_O after one step."""
        ...

    def keep(self, replicas: Int[Tensor, " kept"]) -> "Optimizer":
        """Return the same for these replicas alone."""
        ...


@dataclass(frozen=True)
class Rates:
    """Step sizes of w and W_O of every replica; both have shape (replicas,)."""

    gate: Float[Tensor, " replicas"]
    out: Float[Tensor, " replicas"]

    @classmethod
    def of(cls, trainings: Sequence[GatedTraining], device: str, dtype: torch.dtype) -> "Rates":
        """The step sizes that the trainings ask for."""
        return cls(
            torch.tensor([t.eta_gate for t in trainings], device=device, dtype=dtype),
            torch.tensor([t.eta_out for t in trainings], device=device, dtype=dtype),
        )

    def times(self, factor: Float[Tensor, " replicas"]) -> "Rates":
        """All step sizes of a replica times its factor."""
        return Rates(self.gate * factor, self.out * factor)

    def moved(self, weights: Weights, direction: Weights) -> Weights:
        """The weights after a step against `direction`."""
        return (
            weights[0] - self.gate[:, None] * direction[0],
            weights[1] - self.out[:, None, None] * direction[1],
        )

    def keep(self, replicas: Int[Tensor, " kept"]) -> "Rates":
        """The same for these replicas alone."""
        return Rates(self.gate[replicas], self.out[replicas])


class GradientDescent:
    """Plain gradient descent: no state."""

    def step(self, weights: Weights, gradient: Weights, rates: Rates) -> Weights:
        """Return the weights after a step against the gradient."""
        return rates.moved(weights, gradient)

    def keep(self, replicas: Tensor) -> "GradientDescent":
        """Return itself; there is nothing to keep."""
        return self


class Momentum:
    """Heavy ball: the direction is the gradient plus a share of the last direction."""

    def __init__(self, share: Float[Tensor, " replicas"], last: Weights | None = None) -> None:
        self._share, self._last = share, last

    def step(self, weights: Weights, gradient: Weights, rates: Rates) -> Weights:
        """Return the weights after a step along the remembered direction."""
        if self._last is None:
            self._last = gradient
        else:
            w, W_O = self._last
            share = self._share
            self._last = (
                share[:, None] * w + gradient[0],
                share[:, None, None] * W_O + gradient[1],
            )
        return rates.moved(weights, self._last)

    def keep(self, replicas: Tensor) -> "Momentum":
        """Return the state of these replicas alone."""
        return Momentum(self._share[replicas], _kept(self._last, replicas))


class Adam:
    """Adam with bias correction (Kingma and Ba 2015, algorithm 1)."""

    def __init__(
        self,
        share: Float[Tensor, " replicas"],
        steps: int = 0,
        first: Weights | None = None,
        second: Weights | None = None,
    ) -> None:
        self._share, self._steps, self._first, self._second = share, steps, first, second

    def step(self, weights: Weights, gradient: Weights, rates: Rates) -> Weights:
        """Return the weights after one step of Adam."""
        self._steps += 1
        shares = (self._share[:, None], self._share[:, None, None])
        first = self._first or (torch.zeros_like(gradient[0]), torch.zeros_like(gradient[1]))
        second = self._second or (torch.zeros_like(gradient[0]), torch.zeros_like(gradient[1]))
        whole = 1 - _ADAM_SECOND**self._steps
        directions, firsts, seconds = [], [], []
        for share, m, v, g in zip(shares, first, second, gradient, strict=True):
            m = share * m + (1 - share) * g
            v = _ADAM_SECOND * v + (1 - _ADAM_SECOND) * g * g
            directions.append(m / (1 - share**self._steps) / ((v / whole).sqrt() + _ADAM_EPS))
            firsts.append(m)
            seconds.append(v)
        self._first, self._second = (firsts[0], firsts[1]), (seconds[0], seconds[1])
        return rates.moved(weights, (directions[0], directions[1]))

    def keep(self, replicas: Tensor) -> "Adam":
        """Return the state of these replicas alone."""
        first, second = (_kept(part, replicas) for part in (self._first, self._second))
        return Adam(self._share[replicas], self._steps, first, second)


def _kept(weights: tuple[Tensor, Tensor] | None, replicas: Tensor) -> tuple[Tensor, Tensor] | None:
    return None if weights is None else (weights[0][replicas], weights[1][replicas])


def make_optimizer(
    trainings: Sequence[GatedTraining], device: str, dtype: torch.dtype
) -> Optimizer:
    """The optimizer that all of the trainings name, with each one's momentum."""
    name = trainings[0].optimizer
    if name == "gd":
        return GradientDescent()
    share = torch.tensor([t.momentum for t in trainings], device=device, dtype=dtype)
    return Momentum(share) if name == "momentum" else Adam(share)

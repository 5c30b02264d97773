"""The objective of a batch of gated SSMs: its loss and its gradient."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class HingeStep:
    """Mean hinge loss of every replica, and its gradient in w and W_O."""

    loss: Float[Tensor, " replicas"]
    w: Float[Tensor, "replicas dim"]
    W_O: Float[Tensor, "replicas width dim"]


@runtime_checkable
class HingeObjective(Protocol):
    """The training (or test) data of a batch of replicas, ready to be scored and differentiated."""

    @property
    def signs(self) -> Float[Tensor, "replicas samples"]:
        """Class z of every sample, +1 or -1."""
        ...

    def margins(
        self, w: Float[Tensor, "replicas dim"], W_O: Float[Tensor, "replicas width dim"]
    ) -> Float[Tensor, "replicas samples"]:
        """Compute z F(X) of every sample."""
        ...

    def gradient(
        self, w: Float[Tensor, "replicas dim"], W_O: Float[Tensor, "replicas width dim"]
    ) -> HingeStep:
        """Compute the mean of max(0, 1 - z F(X)) and its gradient."""
        ...

    def keep(self, replicas: Int[Tensor, " kept"]) -> "HingeObjective":
        """Return the same data for these replicas alone."""
        ...

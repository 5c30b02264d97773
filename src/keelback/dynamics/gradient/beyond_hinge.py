"""Which samples stay beyond the hinge without being looked at.

With X the largest norm of a token and S the largest score of a replica's data, an output of the
gated SSM moves no further than

    S X (sum_i |v_i| |dW_O[i]| + 2 X |dw| sum_i |v_i| |W_O[i]|)

when w and W_O move by dw and dW_O: states are averages of tokens times scores, so that none is
longer than S X, and moving a gate's logit by a moves an average by no more than 2 a. A sample whose
margin exceeds 1 by more than the weights have moved since has no part in loss and gradient.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_ROUNDING = 1e-4
"""Share of the largest output by which margins may be rounded, and more."""


@dataclass(frozen=True)
class BeyondHinge:
    """How far the weights of each replica have moved, and up to where each sample is safe.

    Attributes:
        token, score: X and S of every replica.
        path: length of the way of a replica's weights, in units of the output.
        reach: the length of path up to which a sample is known to be beyond the hinge.
        w, W_O: where the weights are.
    """

    token: Float[Tensor, " replicas"]
    score: Float[Tensor, " replicas"]
    path: Float[Tensor, " replicas"]
    reach: Float[Tensor, "replicas samples"]
    w: Float[Tensor, "replicas dim"]
    W_O: Float[Tensor, "replicas width dim"]

    @classmethod
    def at(cls, tokens: Tensor, scores: Tensor, w: Tensor, W_O: Tensor) -> "BeyondHinge":
        """Start at these weights, with no sample known to be beyond the hinge."""
        path = torch.zeros(len(tokens), dtype=torch.float64)
        token = tokens.norm(dim=-1).flatten(1).amax(1).double()
        score = scores.abs().flatten(1).amax(1).double()
        reach = torch.full(tokens.shape[:2], -1.0, dtype=torch.float64)
        return cls(token, score, path, reach, w.clone(), W_O.clone())

    def moved_to(self, w: Tensor, W_O: Tensor, v: Tensor) -> "BeyondHinge":
        """The same data after a step of the weights."""
        size = torch.maximum(_size(self.W_O, v), _size(W_O, v))
        turned = 2 * self.token * (w - self.w).norm(dim=1) * size
        step = self.score * self.token * (_size(W_O - self.W_O, v) + turned)
        path = self.path + step * (1 + _ROUNDING)
        return replace(self, path=path, w=w.clone(), W_O=W_O.clone())

    def safe(self) -> Bool[Tensor, "replicas samples"]:
        """Samples whose margin is at least 1, as the kernel would compute it."""
        return self.reach > self.path[:, None]

    def measured(
        self, margins: Float[Tensor, "replicas samples"], v: Float[Tensor, " width"]
    ) -> "BeyondHinge":
        """Take in the margins of all samples that were not safe."""
        rounding = _ROUNDING * (1 + self.score * self.token * _size(self.W_O, v))
        reach = (self.path - 1 - rounding)[:, None] + margins
        return replace(self, reach=torch.where(self.safe(), self.reach, reach))

    def keep(self, replicas: Int[Tensor, " kept"]) -> "BeyondHinge":
        """The same for these replicas alone."""
        kept = {name: part[replicas] for name, part in vars(self).items()}
        return BeyondHinge(**kept)


def _size(W_O: Tensor, v: Tensor) -> Tensor:
    """Largest output of a unit state: sum_i |v_i| |W_O[i]| of every replica."""
    return (W_O.norm(dim=-1) @ v.abs()).double()

"""Adam, clipping and the plateau schedule for many models at once, one row of numbers a model.

The arithmetic is that of `torch.optim.Adam`, `torch.nn.utils.clip_grad_norm_` and
`torch.optim.lr_scheduler.ReduceLROnPlateau`, which the tests hold it to; those take one learning
rate and one norm for all parameters, where each replica here has its own.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_CLIP_EPSILON = 1e-6


class ReplicaAdam:
    """Adam on a matrix whose rows are the flattened parameters of the replicas."""

    def __init__(self, parameters: Float[Tensor, "replicas size"], weight_decay: float) -> None:
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.steps = 0
        self.first_moment = torch.zeros_like(parameters)
        self.second_moment = torch.zeros_like(parameters)

    def keep(self, rows: Int[Tensor, " kept"], parameters: Float[Tensor, "kept size"]) -> None:
        """Go on with these replicas alone, whose parameters now lie in `parameters`."""
        self.parameters = parameters
        self.first_moment = self.first_moment[rows]
        self.second_moment = self.second_moment[rows]

    @torch.no_grad()
    def step(
        self,
        gradient: Float[Tensor, "replicas size"],
        learning_rate: Float[Tensor, " replicas"],
        alive: Bool[Tensor, " replicas"],
    ) -> None:
        """Move the parameters of the replicas that are alive; the others keep theirs."""
        self.steps += 1
        gradient = gradient.add(self.parameters, alpha=self.weight_decay)
        gradient = torch.where(alive[:, None], gradient, 0.0)
        self.first_moment.lerp_(gradient, 1 - _BETA_1)
        self.second_moment.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
        scale = (1 - _BETA_2**self.steps) ** 0.5
        denominator = self.second_moment.sqrt().div_(scale).add_(_EPSILON)
        rate = torch.where(alive, learning_rate, 0.0) / (1 - _BETA_1**self.steps)
        self.parameters.sub_(rate[:, None] * self.first_moment.div(denominator))


def clip_by_norm(
    gradient: Float[Tensor, "replicas size"],
    clip_norm: float,
    norm_precision: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "replicas size"], Float[Tensor, " replicas"]]:
    """Scale each replica's gradient to at most `clip_norm`; also the norms before that.

    As in PyTorch, a norm whose squares overflow scales a finite gradient to zero, and an entry that
    is not finite makes NaNs of itself or of all. In float64 no norm of a finite float32 gradient
    overflows.
    """
    norm = gradient.to(torch.promote_types(gradient.dtype, norm_precision)).norm(dim=1)
    scale = torch.clamp(clip_norm / (norm + _CLIP_EPSILON), max=1.0)
    return (gradient * scale[:, None]).to(gradient.dtype), norm


class ReplicaPlateau:
    """Lower a replica's learning rate when its loss stopped falling by the relative threshold.

    `stale_epochs` counts the epochs since the loss last fell so, whatever the learning rate did.
    """

    STATE = ("learning_rate", "best", "bad_epochs", "stale_epochs")

    def __init__(
        self,
        learning_rate: Float[Tensor, " replicas"],
        factor: float,
        patience: int,
        threshold: float,
    ) -> None:
        self.learning_rate = learning_rate.clone()
        self.factor, self.patience, self.threshold = factor, patience, threshold
        self.best = torch.full_like(learning_rate, torch.inf)
        self.bad_epochs = torch.zeros_like(learning_rate)
        self.stale_epochs = torch.zeros_like(learning_rate)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these replicas alone."""
        for name in self.STATE:
            setattr(self, name, getattr(self, name)[rows])

    def step(self, loss: Float[Tensor, " replicas"]) -> None:
        """Take note of one epoch's mean losses."""
        better = loss < self.best * (1 - self.threshold)
        self.best = torch.where(better, loss, self.best)
        self.bad_epochs = torch.where(better, 0.0, self.bad_epochs + 1)
        self.stale_epochs = torch.where(better, 0.0, self.stale_epochs + 1)
        tired = self.bad_epochs > self.patience
        lowered = self.learning_rate * self.factor
        # As in PyTorch, a change of at most 1e-8 is not made.
        worth_it = self.learning_rate - lowered > 1e-8
        self.learning_rate = torch.where(tired & worth_it, lowered, self.learning_rate)
        self.bad_epochs = torch.where(tired, 0.0, self.bad_epochs)

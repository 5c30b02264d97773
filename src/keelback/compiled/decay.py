"""What remains of a state after some time."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

#: Stands for the decay over a time with a reset in it: nothing remains, not even an infinity.
FORGOTTEN = -1.0


def exp_(logs: Tensor) -> Tensor:
    """exp, in place: zero where it would be below the least normal number, and nan of nan.

    A processor computes a hundred times slower with the numbers below.
    """
    least = math.log(torch.finfo(logs.dtype).tiny)
    return F.threshold(logs, least, -torch.inf, inplace=True).exp_()


def decay_over(
    elapsed: Float[Tensor, "*rows channels"], A: Float[Tensor, "channels state"]
) -> Float[Tensor, "*rows channels state"]:
    """exp(elapsed A); `FORGOTTEN` where `elapsed`, a sum of step sizes, is infinite: a reset."""
    elapsed = elapsed.unsqueeze(-1)
    return torch.where(elapsed == torch.inf, FORGOTTEN, torch.exp(elapsed * A))


def decayed(decay: Tensor, state: Tensor) -> Tensor:
    """Their product, but zero where the state is: an overflowing decay of nothing is nothing."""
    nothing = (decay == FORGOTTEN) | (state == 0)
    return torch.where(nothing, torch.zeros_like(state), decay * state)

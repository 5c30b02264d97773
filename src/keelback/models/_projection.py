"""A linear map of every position, with a backward pass that suits a GPU."""

import torch
from jaxtyping import Float
from torch import Tensor


def project(
    u: Float[Tensor, "batch length d_in"], weight: Float[Tensor, "d_out d_in"]
) -> Float[Tensor, "batch length d_out"]:
    """`u @ weight.mT`.

    The gradient of so small a weight is one sum over all positions of a batch, half a million
    terms an entry, for which cuBLAS uses a small part of a GPU. There it is summed over each
    sequence by itself, then over the batch; the result differs in rounding.
    """
    return project_by_sequence(u, weight) if u.is_cuda else u @ weight.mT


def project_by_sequence(
    u: Float[Tensor, "batch length d_in"], weight: Float[Tensor, "d_out d_in"]
) -> Float[Tensor, "batch length d_out"]:
    """`u @ weight.mT`, as one product a sequence on any device."""
    return torch.bmm(u, weight.mT.expand(len(u), -1, -1))

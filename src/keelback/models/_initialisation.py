"""Initial values of the selective SSM's tensors."""

import torch
from jaxtyping import Float
from torch import Tensor

ABSCISSA_SPREAD = 10.0
"""Entries of A start within this distance below the spectral abscissa."""


def state_matrix_with_abscissa(
    d_model: int,
    d_state: int,
    spectral_abscissa: float,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "d_model d_state"]:
    """Diagonals `s_A - 10 U(0, 1)`, one row a channel, with column 0 set to `s_A` exactly.

    Source: the recipe of arXiv 2502.01473, experiments.
    """
    below = torch.rand(d_model, d_state, generator=generator)
    A = spectral_abscissa - ABSCISSA_SPREAD * below
    A[:, 0] = spectral_abscissa
    return A

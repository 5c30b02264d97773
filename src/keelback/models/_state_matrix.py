"""Two parametrisations of the diagonal state matrix A."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from keelback.errors import InputError


class FreeStateMatrix(nn.Module):
    """A is the parameter itself, and training may push it anywhere (arXiv 2502.01473).

    Examples:
        >>> matrix = FreeStateMatrix(torch.full((4, 2), -0.5))
        >>> sorted(name for name, _ in matrix.named_parameters())
        ['A']
    """

    def __init__(self, A: Float[Tensor, "d_model d_state"]) -> None:
        super().__init__()
        self.A = nn.Parameter(A.clone())

    def forward(self) -> Float[Tensor, "*replicas d_model d_state"]:
        """The state matrix, one row of diagonal entries a channel."""
        return self.A


class StableStateMatrix(nn.Module):
    """`A = -margin - exp(A_log)`: the spectral abscissa is below `-margin` whatever training does.

    With margin 0 this is Mamba's own parametrisation (Gu and Dao 2023, arXiv 2312.00752).

    Examples:
        >>> matrix = StableStateMatrix(torch.full((4, 2), -0.5), margin=0.1)
        >>> sorted(name for name, _ in matrix.named_parameters())
        ['A_log']
    """

    def __init__(self, A: Float[Tensor, "d_model d_state"], margin: float) -> None:
        super().__init__()
        if not margin >= 0:
            raise InputError(f"the stability margin is {margin}; it must be 0 or more")
        if not bool((-margin > A).all()):
            raise InputError(
                f"an initial spectral abscissa of {float(A.max()):g} is not below "
                f"-margin = {-margin:g}, which the stable parametrisation needs"
            )
        self.margin = margin
        self.A_log = nn.Parameter(torch.log(-margin - A))

    def forward(self) -> Float[Tensor, "*replicas d_model d_state"]:
        """The state matrix, one row of diagonal entries a channel."""
        return -self.margin - torch.exp(self.A_log)


def require_below_margin(spectral_abscissa: float, margin: float) -> None:
    """Raise `InputError` unless the stable parametrisation can start at this abscissa."""
    if not spectral_abscissa < -margin:
        raise InputError(
            f"an initial spectral abscissa of {spectral_abscissa:g} is not below "
            f"-margin = {-margin:g}, which the stable parametrisation needs"
        )

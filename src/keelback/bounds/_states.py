"""Selective SSMs whose states are complex, or mix within a channel: their classes of constants."""

from dataclasses import dataclass

from keelback.bounds._constants import BallConstants, ClassConstants, real_constant


@dataclass(frozen=True)
class ComplexConstants(ClassConstants):
    """A class whose diagonal states are complex: A's entries are a + ib, -B_A <= a <= s_A.

    The output is the real part of z. B and C are real.

    Attributes:
        omega: largest |b|.

    Source: docs/studies/bounds.md, Complex diagonal states.

    Examples:
        >>> c = dict(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1, B_w=1,
        ...     M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> len(selective_blocks(ComplexConstants(**c, omega=3.0)))
        7
    """

    omega: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "omega", real_constant("omega", self.omega))


@dataclass(frozen=True)
class DenseConstants(ClassConstants):
    """A class in which each channel has a full N x N state matrix A_j.

    s_A is then the numerical abscissa, the largest eigenvalue of (A_j + A_j^T) / 2 over the
    channels, and B_A the largest spectral norm.

    Source: docs/studies/bounds.md, Blocks that are not diagonal.

    Examples:
        >>> c = dict(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1, B_w=1,
        ...     M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> selective_blocks(DenseConstants(**c))[3].coordinates
        128
    """

    dense = True

    def balls(self) -> BallConstants:
        """The constants as exact balls."""
        return BallConstants(**vars(super().balls()), dense=True)

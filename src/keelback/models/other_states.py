"""Selective SSMs with other states than real diagonal ones, for the bounds that speak of them."""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from pydantic import Field
from torch import Tensor, nn

from keelback.models._initialisation import state_matrix_with_abscissa
from keelback.models.sequence_classifier import SequenceClassifierConfig, SequenceMixer


class _StepByStep(SequenceMixer):
    """`SelectiveSSM` with another state matrix; a plain loop over time, without a kernel."""

    def __init__(self, d_model: int, d_state: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.d_output, self.d_state = d_model, d_state
        self.W_B = nn.Parameter(torch.randn(d_state, d_model, generator=generator))
        self.W_C = nn.Parameter(torch.randn(d_state, d_model, generator=generator))
        self.q = nn.Parameter(torch.randn(d_model, generator=generator))
        self.p = nn.Parameter(torch.randn(1, generator=generator))

    @abstractmethod
    def start(self, u: Float[Tensor, "batch d_model"]) -> Tensor:
        """States of zero, one vector of `d_state` per channel."""

    @abstractmethod
    def decayed(self, state: Tensor, delta: Float[Tensor, " batch"]) -> Tensor:
        """`exp(delta A)` times the states."""

    def _outputs(self, u: Tensor, first: int) -> Tensor:
        delta = F.softplus(self.p + u @ self.q)
        drive = (delta.unsqueeze(-1) * u).unsqueeze(-1) * (u @ self.W_B.T).unsqueeze(-2)
        state, found = self.start(u[:, 0]), []
        for t in range(u.shape[1]):
            state = self.decayed(state, delta[:, t]) + drive[:, t]
            if t >= first:
                real = state.real if state.is_complex() else state
                found.append((real * (u[:, t] @ self.W_C.T).unsqueeze(-2)).sum(-1))
        return torch.stack(found, 1)

    def forward(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        """Outputs at every position."""
        return self._outputs(u, 0)

    def last(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch 1 d_model"]:
        """The output at the last position."""
        return self._outputs(u, u.shape[1] - 1)


class ComplexSSM(_StepByStep):
    """A selective SSM with complex diagonal states, of which the real part is read.

    `A = A_real + i A_imag`, everything else as in `SelectiveSSM`; the imaginary parts start uniform
    on [-1, 1].

    Source: arXiv 2502.01473, Section 3; docs/studies/bounds.md, Complex diagonal states.

    Examples:
        >>> ComplexSSM(d_model=6, d_state=4)(torch.randn(2, 9, 6)).shape
        torch.Size([2, 9, 6])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int,
        *,
        spectral_abscissa: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(d_model, d_state, generator)
        A = state_matrix_with_abscissa(d_model, d_state, spectral_abscissa, generator)
        self.A_real = nn.Parameter(A)
        self.A_imag = nn.Parameter(2 * torch.rand(d_model, d_state, generator=generator) - 1)

    def start(self, u: Float[Tensor, "batch d_model"]) -> Complex[Tensor, "batch d_model d_state"]:
        """States of zero."""
        zeros = u.new_zeros(*u.shape, self.d_state)
        return torch.complex(zeros, zeros)

    def decayed(self, state: Tensor, delta: Float[Tensor, " batch"]) -> Tensor:
        """`exp(delta A)` times the states, entry by entry."""
        A = torch.complex(self.A_real, self.A_imag)
        return state * torch.exp(delta[:, None, None] * A)


class DenseSSM(_StepByStep):
    """A selective SSM whose channels have full state matrices A_j, in blocks of `d_state`.

    `A_j = -a I + K_j` with `a` such that the numerical abscissa, the largest eigenvalue of the
    symmetric part over the channels, starts at `spectral_abscissa`; everything else as in
    `SelectiveSSM`.

    Source: docs/studies/bounds.md, Blocks that are not diagonal.

    Examples:
        >>> ssm = DenseSSM(d_model=6, d_state=4, spectral_abscissa=-0.2)
        >>> ssm(torch.randn(2, 9, 6)).shape
        torch.Size([2, 9, 6])
        >>> round(float(torch.linalg.eigvalsh((ssm.A + ssm.A.mT).detach() / 2).max()), 3)
        -0.2
    """

    def __init__(
        self,
        d_model: int,
        d_state: int,
        *,
        spectral_abscissa: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(d_model, d_state, generator)
        K = torch.randn(d_model, d_state, d_state, generator=generator) / d_state**0.5
        largest = torch.linalg.eigvalsh((K + K.mT) / 2).max()
        self.A = nn.Parameter(K + (spectral_abscissa - largest) * torch.eye(d_state))

    def start(self, u: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model d_state"]:
        """States of zero."""
        return u.new_zeros(*u.shape, self.d_state)

    def decayed(self, state: Tensor, delta: Float[Tensor, " batch"]) -> Tensor:
        """`exp(delta A_j)` times the states of channel j."""
        decay = torch.linalg.matrix_exp(delta[:, None, None, None] * self.A)
        return (decay @ state.unsqueeze(-1)).squeeze(-1)


class _OtherStatesConfig(SequenceClassifierConfig):
    d_state: int = Field(default=4, gt=0)
    spectral_abscissa: float = Field(default=0.0, ge=-1e30, le=1e30)

    _mixer: ClassVar[type[ComplexSSM | DenseSSM]]

    def mixer(self, generator: torch.Generator | None = None) -> ComplexSSM | DenseSSM:
        """A freshly initialised mixer."""
        return self._mixer(
            self.d_model,
            self.d_state,
            spectral_abscissa=self.spectral_abscissa,
            generator=generator,
        )


class ComplexSSMConfig(_OtherStatesConfig):
    """A classifier around a `ComplexSSM`.

    Examples:
        >>> ComplexSSMConfig(vocab_size=2).build()(torch.tensor([[0, 1, 1]])).shape
        torch.Size([1])
    """

    kind: Literal["complex-ssm"] = "complex-ssm"

    _mixer: ClassVar = ComplexSSM


class DenseSSMConfig(_OtherStatesConfig):
    """A classifier around a `DenseSSM`.

    Examples:
        >>> DenseSSMConfig(vocab_size=2).build()(torch.tensor([[0, 1, 1]])).shape
        torch.Size([1])
    """

    kind: Literal["dense-ssm"] = "dense-ssm"

    _mixer: ClassVar = DenseSSM

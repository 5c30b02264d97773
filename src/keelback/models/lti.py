"""The linear time-invariant SSM: the selective SSM without selection."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from keelback.models.sequence_classifier import SequenceClassifierConfig, SequenceMixer

STEP_RANGE = (1e-3, 1e-1)
"""Step sizes start log-uniform on this range (Gu et al. 2022, arXiv 2206.11893)."""


class DiagonalLTI(SequenceMixer):
    """`d_model` channels of `d_state` real diagonal states each, the same at every step.

    `x_t[j] = exp(delta_j A[j]) x_{t-1}[j] + delta_j B[j] u_t[j]`, `y_t[j] = C[j] . x_t[j]`, with
    `A = -exp(A_log)` that starts at -1, ..., -d_state (S4D-Real of Gu et al. 2022,
    arXiv 2206.11893, with the discretisation of `SelectiveSSM`). The output is a convolution,
    linear in the inputs: what it lacks is that step size, B and C see the token.

    Examples:
        >>> DiagonalLTI(d_model=16, d_state=4)(torch.randn(2, 50, 16)).shape
        torch.Size([2, 50, 16])
    """

    def __init__(
        self, d_model: int, d_state: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.d_output = d_model
        low, high = map(math.log, STEP_RANGE)
        steps = low + (high - low) * torch.rand(d_model, generator=generator)
        rates = torch.arange(1, d_state + 1, dtype=torch.get_default_dtype())
        self.A_log = nn.Parameter(torch.log(rates).repeat(d_model, 1))
        self.log_delta = nn.Parameter(steps)
        self.B = nn.Parameter(torch.randn(d_model, d_state, generator=generator))
        self.C = nn.Parameter(torch.randn(d_model, d_state, generator=generator))

    def impulse_response(self, length: int) -> Float[Tensor, "d_model {length}"]:
        """What a unit input of each channel leaves in its output 0, 1, ... steps later."""
        delta = torch.exp(self.log_delta)
        rate = -torch.exp(self.A_log) * delta[:, None]
        lags = torch.arange(length, device=rate.device, dtype=rate.dtype)
        weights = self.C * self.B * delta[:, None]
        return (weights[..., None] * torch.exp(rate[..., None] * lags)).sum(-2)

    def forward(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        """Outputs at every position, by a convolution in the frequency domain."""
        length = u.shape[1]
        response = torch.fft.rfft(self.impulse_response(length).mT, n=2 * length, dim=0)
        spectrum = torch.fft.rfft(u, n=2 * length, dim=1) * response
        return torch.fft.irfft(spectrum, n=2 * length, dim=1)[:, :length]

    def last(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch 1 d_model"]:
        """The output at the last position, as one weighted sum."""
        response = self.impulse_response(u.shape[1]).flip(-1)
        return (u * response.mT).sum(1, keepdim=True)


class DiagonalLTIConfig(SequenceClassifierConfig):
    """A classifier around a diagonal LTI SSM.

    Examples:
        >>> DiagonalLTIConfig(vocab_size=2).build()(torch.tensor([[0, 1, 1]])).shape
        torch.Size([1])
    """

    kind: Literal["lti-ssm"] = "lti-ssm"
    d_state: int = Field(default=4, gt=0)

    def mixer(self, generator: torch.Generator | None = None) -> DiagonalLTI:
        """A freshly initialised mixer."""
        return DiagonalLTI(self.d_model, self.d_state, generator)

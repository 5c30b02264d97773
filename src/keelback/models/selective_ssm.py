"""The selective SSM of arXiv 2502.01473, alone and as a classifier of token sequences."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator
from torch import Tensor, nn

from keelback.models._embedding import look_up
from keelback.models._initialisation import state_matrix_with_abscissa
from keelback.models._projection import project
from keelback.models._state_matrix import (
    FreeStateMatrix,
    StableStateMatrix,
    require_below_margin,
)
from keelback.scan import attention_matrix, can_switch, selective_scan, switched_scan

DEFAULT_MARGIN = 1e-3

SMALL_VOCABULARY = 64
"""Up to so many tokens, a classifier tabulates what the scan needs of each instead of computing it
at every position."""


LARGEST = 1e30
"""Of the abscissas that a model may start with: beyond, float32 has no room for a step."""


class SelectiveSSM(nn.Module):
    """One block with `d_model` channels of `d_state` states and one step size per token.

    `delta_t = softplus(p + q . u_t)`;
    `x_t[j] = exp(delta_t A[j]) x_{t-1}[j] + delta_t (W_B u_t) u_t[j]`;
    `y_t[j] = (W_C u_t) . x_t[j]`.
    Source: arXiv 2502.01473, Section 3.

    Args:
        d_model: number of channels d.
        d_state: states per channel N.
        spectral_abscissa: the largest entry of A at the start.
        parametrisation: "free" (A is the parameter) or "stable" (A < -margin by construction).
        margin: the stable parametrisation's margin.
        generator: source of the initial values; the global one if not given.

    Raises:
        InputError: "stable" with an abscissa that is not below `-margin`.

    Examples:
        >>> ssm = SelectiveSSM(d_model=16, d_state=4, spectral_abscissa=-0.1)
        >>> ssm(torch.randn(2, 50, 16)).shape  # batch, length, channels
        torch.Size([2, 50, 16])
        >>> round(float(ssm.spectral_abscissa), 3)
        -0.1
    """

    def __init__(
        self,
        d_model: int,
        d_state: int,
        *,
        spectral_abscissa: float = 0.0,
        parametrisation: Literal["free", "stable"] = "free",
        margin: float = DEFAULT_MARGIN,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        A = state_matrix_with_abscissa(d_model, d_state, spectral_abscissa, generator)
        self.state_matrix = (
            FreeStateMatrix(A) if parametrisation == "free" else StableStateMatrix(A, margin)
        )
        self.W_B = nn.Parameter(torch.randn(d_state, d_model, generator=generator))
        self.W_C = nn.Parameter(torch.randn(d_state, d_model, generator=generator))
        self.q = nn.Parameter(torch.randn(d_model, generator=generator))
        self.p = nn.Parameter(torch.randn(1, generator=generator))

    @property
    def A(self) -> Float[Tensor, "*replicas d_model d_state"]:
        """The diagonals of the state matrices, one row a channel."""
        return self.state_matrix()

    @property
    def spectral_abscissa(self) -> float:
        """`s_A`, the largest entry of A."""
        return float(self.A.detach().max())

    def step_logit(self, u: Float[Tensor, "*positions d_model"]) -> Float[Tensor, "*positions"]:
        """`p + q . u_t`, whose softplus is the step size."""
        return self.p + (u @ self.q.unsqueeze(-1)).squeeze(-1)

    def delta(self, u: Float[Tensor, "*positions d_model"]) -> Float[Tensor, "*positions"]:
        """The step size of each token."""
        return F.softplus(self.step_logit(u))

    def forward(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        """Outputs at every position."""
        y = selective_scan(
            u,
            self.step_logit(u).unsqueeze(-1),
            self.A,
            (u @ self.W_B.T).unsqueeze(-2),
            (u @ self.W_C.T).unsqueeze(-2),
            delta_softplus=True,
        )
        assert isinstance(y, Tensor)
        return y

    def last(self, u: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch 1 d_model"]:
        """The output at the last position alone, which costs less than all of them."""
        B = project(u, self.W_B).unsqueeze(-2)
        _, state = selective_scan(
            u,
            self.p + project(u, self.q.unsqueeze(0)),
            self.A,
            B,
            u.new_zeros(()).expand(B.shape),
            delta_softplus=True,
            return_last_state=True,
        )
        return self._read(state, u[:, -1]).unsqueeze(1)

    def last_of_tokens(
        self,
        tokens: Int[Tensor, "*replicas batch length"],
        vectors: Float[Tensor, "*replicas vocab d_model"],
    ) -> Float[Tensor, "*replicas batch 1 d_model"]:
        """`last(vectors[tokens])`, from a table of each token's decay and drive of the state.

        A leading axis of replicas goes with parameters that have it too.
        """
        delta = self.delta(vectors).unsqueeze(-1)
        decay = torch.exp(delta.unsqueeze(-1) * self.A.unsqueeze(-3))
        drive = (delta * vectors).unsqueeze(-1) * (vectors @ self.W_B.mT).unsqueeze(-2)
        state = switched_scan(tokens, decay.flatten(-2), drive.flatten(-2))
        final = tokens[..., -1].long().unsqueeze(-1)
        u = torch.take_along_dim(vectors, final, dim=-2)
        return self._read(state.unflatten(-1, self.A.shape[-2:]), u).unsqueeze(-2)

    def _read(
        self,
        state: Float[Tensor, "*positions d_model d_state"],
        u: Float[Tensor, "*positions d_model"],
    ) -> Float[Tensor, "*positions d_model"]:
        """`y_t` from the state after step t and the token vector u_t."""
        return (state * (u @ self.W_C.mT).unsqueeze(-2)).sum(-1).to(u.dtype)

    def attention(
        self, u: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch d_model length length"]:
        """`alpha_j(t, s)` with `y_t[j] = sum_s alpha_j(t, s) u_s[j]`.

        W_C is the query map, W_B the key map, u itself the value (arXiv 2502.01473, Section 3).
        """
        return attention_matrix(
            self.delta(u).unsqueeze(-1),
            self.A,
            (u @ self.W_B.T).unsqueeze(-2),
            (u @ self.W_C.T).unsqueeze(-2),
        )


class LastPositionHead(nn.Module):
    """Logits from the last position: one for two classes, else one a class.

    Binary `z = w . y_T`, multiclass `z = W y_T`, no bias (arXiv 2502.01473, Section 3).

    Examples:
        >>> LastPositionHead(d_model=16, n_classes=3)(torch.randn(2, 50, 16)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, d_model: int, n_classes: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.n_classes = n_classes
        shape = (d_model,) if n_classes == 2 else (n_classes, d_model)
        self.weight = nn.Parameter(torch.randn(shape, generator=generator))

    def forward(
        self, y: Float[Tensor, "*replicas batch length d_model"]
    ) -> Float[Tensor, "*logits"]:
        """`(batch,)` for two classes, `(batch, n_classes)` otherwise."""
        last = y[..., -1, :]
        if self.n_classes > 2:
            return last @ self.weight.mT
        return (last @ self.weight.unsqueeze(-1)).squeeze(-1)


class SelectiveSSMConfig(BaseModel):
    """Everything that decides what a `SelectiveClassifier` is at the start of training.

    With `initial_sensitivity` W_B and W_C are scaled at the start, so that the sharpened bound's
    factor for the gate (`log_gate_sensitivity`) is that number for sequences of `initial_length`.

    Examples:
        >>> model = SelectiveSSMConfig(vocab_size=2, d_model=8).build()
        >>> model(torch.tensor([[0, 1, 1, 0]])).shape  # one logit for two classes
        torch.Size([1])
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["selective-ssm"] = "selective-ssm"
    vocab_size: int = Field(gt=0)
    n_classes: int = Field(default=2, ge=2)
    d_model: int = Field(default=4, gt=0)
    d_state: int = Field(default=4, gt=0)
    spectral_abscissa: float = Field(default=0.0, ge=-LARGEST, le=LARGEST)
    parametrisation: Literal["free", "stable"] = "free"
    margin: float = Field(default=DEFAULT_MARGIN, ge=0, le=LARGEST)
    initial_sensitivity: float | None = Field(default=None, gt=0, le=LARGEST)
    initial_length: int = Field(default=100, gt=0, le=10**6)

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        """Fields of later versions are left out at their default: runs keep their names."""
        fields: dict[str, Any] = handler(self)
        if self.initial_sensitivity is None:
            del fields["initial_sensitivity"], fields["initial_length"]
        return fields

    @model_validator(mode="after")
    def _stable_start(self) -> "SelectiveSSMConfig":
        if self.parametrisation == "stable":
            require_below_margin(self.spectral_abscissa, self.margin)
        return self

    def build(self, generator: torch.Generator | None = None) -> "SelectiveClassifier":
        """A freshly initialised model."""
        model = SelectiveClassifier(self, generator)
        if self.initial_sensitivity is not None:
            from keelback.models.sharpened import scale_to_sensitivity

            scale_to_sensitivity(model, self.initial_length, self.initial_sensitivity)
        return model


class SelectiveClassifier(nn.Module):
    """Embedding, one selective SSM, and a head that reads the last position.

    All initial values are standard normal but A's, which has the configured spectral abscissa.

    Examples:
        >>> model = SelectiveClassifier(SelectiveSSMConfig(vocab_size=10, n_classes=3))
        >>> model(torch.zeros(2, 7, dtype=torch.int64)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, config: SelectiveSSMConfig, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        embedding = torch.randn(config.vocab_size, config.d_model, generator=generator)
        self.embedding = nn.Parameter(embedding)
        self.ssm = SelectiveSSM(
            config.d_model,
            config.d_state,
            spectral_abscissa=config.spectral_abscissa,
            parametrisation=config.parametrisation,
            margin=config.margin,
            generator=generator,
        )
        self.head = LastPositionHead(config.d_model, config.n_classes, generator)

    def embed(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length d_model"]:
        """The token vectors u_t."""
        return look_up(tokens, self.embedding)

    @property
    def takes_replicas(self) -> bool:
        """Whether `forward` takes tokens and parameters with a leading axis of replicas."""
        return self.config.vocab_size <= SMALL_VOCABULARY and can_switch(self.embedding)

    def forward(self, tokens: Int[Tensor, "*replicas batch length"]) -> Float[Tensor, "*logits"]:
        """Logits, `(batch,)` for two classes and `(batch, n_classes)` otherwise."""
        if self.takes_replicas:
            return self.head(self.ssm.last_of_tokens(tokens, self.embedding))
        return self.head(self.ssm.last(self.embed(tokens)))

    def trace(self, tokens: Int[Tensor, "batch length"]) -> Mapping[str, Tensor]:
        """Named tensors of a forward pass in the order in which they arise."""
        u = self.embed(tokens)
        y = self.ssm(u)
        return {"u": u, "delta": self.ssm.delta(u), "y": y, "logits": self.head(y)}

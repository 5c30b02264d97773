"""The full Mamba block: projection, causal convolution, a step per channel, skip and gate."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import TypeVar

from keelback.bounds._chaining import CoveredClass
from keelback.bounds._constants import ClassConstants, ClassFormulas
from keelback.bounds._covering import Ball, Block, Intervals
from keelback.bounds._numbers import Real, ball, like, log, logaddexp
from keelback.bounds._sharpened import (
    count,
    log_excess,
    log_output_bound,
    log_state_reach,
    log_token_reach,
)
from keelback.bounds._steps import StepSums
from keelback.errors import InputError

SILU_SLOPE = 1.1
"""An upper bound on |silu'|, whose maximum is 1.0998; |silu(x)| <= |x| needs no constant."""

_LARGEST = 1e60


class MambaBlockFormulas(ABC):
    """What follows from the constants of a block, be they doubles or balls."""

    selective: ClassFormulas
    B_x: Real
    d_model: Real
    B_in: Real
    B_g: Real
    B_conv: Real
    d_conv: Real
    B_bias: Real
    B_D: Real

    @abstractmethod
    def with_tokens(self: "BlockFormulas", norm: Real) -> "BlockFormulas":
        """The same for tokens of another norm."""

    @property
    def channel(self) -> ClassFormulas:
        """The class of one channel's y: tokens v of norm B_conv B_in B_x + B_bias, w a unit."""
        norm = self.B_conv * self.B_in * self.B_x + self.B_bias
        one = like(1.0, self.B_x)
        return self.selective.with_changes(B_u=norm, B_w=one, M_w=one)


BlockFormulas = TypeVar("BlockFormulas", bound=MambaBlockFormulas)


class BallMambaBlockConstants(MambaBlockFormulas, SimpleNamespace):
    """The constants of a block as balls, under the same names."""

    def with_tokens(self, norm: Real) -> "BallMambaBlockConstants":
        """The same for tokens of another norm."""
        return BallMambaBlockConstants(**{**vars(self), "B_x": norm})


@dataclass(frozen=True)
class MambaBlockConstants(MambaBlockFormulas):
    """A class of Mamba blocks that are read at the last position, z = w . (h_T * silu(W_g x_T)).

    v_t = silu(sum_i kappa_i * W_in x_{t - i} + beta), products with a star channel by channel;
    y_t is the selective SSM's output for the tokens v, each channel j with its own step
    delta_t[j] = softplus(p_j + q_j . v_t); h_t = y_t + D * v_t. A linear projection after the
    gate, and a head after it, are part of w.

    Attributes:
        selective: constants of the selective part. `d` is the number of inner channels; B_q, M_q,
            p_lo and p_hi hold for every channel's q_j and p_j; B_w and M_w are the norms of w.
            Its B_u is not read.
        B_x: largest Euclidean norm of a token x_t.
        d_model: dimension of a token.
        B_in: spectral norm of W_in, the half of the projection that is convolved.
        B_g: spectral norm of W_g, the half that gates.
        B_conv: sum over the taps i of max_j |kappa_i[j]|.
        d_conv: number of taps.
        B_bias: Euclidean norm of beta.
        B_D: max_j |D_j|.

    Raises:
        InputError: a constant is negative, not finite or, where it is a count, below 1.

    Source: docs/studies/bounds.md, Corollary 9; Gu and Dao 2023 (arXiv 2312.00752), Figure 3.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> block = MambaBlockConstants(c, B_x=1, d_model=4, B_in=1, B_g=1, B_conv=1, d_conv=4,
        ...     B_bias=0, B_D=1)
        >>> block.selective.d, block.d_model
        (8, 4)
    """

    selective: ClassConstants
    B_x: float
    d_model: int
    B_in: float
    B_g: float
    B_conv: float
    d_conv: int
    B_bias: float
    B_D: float

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name != "selective"):
            value, least = getattr(self, name), 1 if name in ("d_model", "d_conv") else 0
            if not least <= value <= _LARGEST:
                raise InputError(f"{name} = {value:g} must be finite and at least {least}")

    def with_tokens(self, norm: Real) -> "MambaBlockConstants":
        """The same for tokens of another norm."""
        return replace(self, B_x=norm)

    @property
    def m(self) -> int:
        """Number of training samples."""
        return self.selective.m

    def as_dict(self) -> dict[str, float | int]:
        """The constants by name, ready for JSON; B_u is that of the tokens of the scan."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        selective: ClassConstants = own.pop("selective")
        return {**selective.as_dict(), **own, "B_u": float(self.channel.B_u)}

    def balls(self) -> BallMambaBlockConstants:
        """The constants as exact balls, for evaluation with rounding accounted for.

        Raises:
            InputError: python-flint is not installed.
        """
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        selective = own.pop("selective").balls()
        return BallMambaBlockConstants(
            selective=selective, **{name: ball(value) for name, value in own.items()}
        )


def log_mamba_output_bound(constants: MambaBlockFormulas) -> Real:
    """Logarithm of a bound on |z|, B_w B_g B_x (Y + B_D B_v); -inf if the class is {0}.

    Y = B_B B_C B_v^3 S1 bounds each channel of y, B_v each token v. The gate multiplies channel by
    channel, so the largest channel counts and not the norm of y, which is up to sqrt(d) larger.

    Source: docs/studies/bounds.md, Corollary 9.

    Examples:
        >>> import math
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> block = MambaBlockConstants(c, B_x=1, d_model=4, B_in=1, B_g=1, B_conv=1, d_conv=4,
        ...     B_bias=0, B_D=1)
        >>> round(math.exp(log_mamba_output_bound(block)), 2)
        11.49
    """
    c = constants
    gate = log(c.selective.B_w) + log(c.B_g) + log(c.B_x)
    return gate + _log_channel_output(c)


def mamba_log_rademacher(constants: MambaBlockConstants, *, vocab_size: int = 0) -> float:
    """Logarithm of the sharpened bound on the empirical Rademacher complexity of Mamba blocks.

    Args:
        constants: the class.
        vocab_size: number of trained embedding rows, each of norm at most B_x; 0 when the tokens
            are fixed vectors.

    Raises:
        InputError: `vocab_size` is negative.

    Source: docs/studies/bounds.md, Corollary 9.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> block = MambaBlockConstants(c, B_x=1, d_model=4, B_in=1, B_g=1, B_conv=1, d_conv=4,
        ...     B_bias=0, B_D=1)
        >>> mamba_log_rademacher(block) < mamba_log_rademacher(block, vocab_size=10)
        True
    """
    found = mamba_class(constants, vocab_size=vocab_size)
    return found.log_rademacher(constants.selective.m)


def mamba_class(
    constants: MambaBlockFormulas, *, vocab_size: int = 0, classes: int = 1
) -> CoveredClass:
    """The output bound and the parameters of Mamba blocks."""
    blocks = mamba_blocks(constants, vocab_size=vocab_size, classes=classes)
    return CoveredClass(log_mamba_output_bound(constants), blocks)


def mamba_blocks(
    constants: MambaBlockFormulas, *, vocab_size: int = 0, classes: int = 1
) -> list[Block]:
    """The parameters w, W_g, D, W_in, kappa, beta, [W_B, W_C, A, p, q], [embedding], in order.

    Each reach is in units of the output bound. W_B to q are left out where y is zero, the embedding
    where it is not trained.

    Args:
        constants: the class.
        vocab_size: number of trained embedding rows.
        classes: number of rows w, each within B_w and M_w.

    Raises:
        InputError: `vocab_size` is negative or `classes` is below 1.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> block = MambaBlockConstants(c, B_x=1, d_model=4, B_in=1, B_g=1, B_conv=1, d_conv=4,
        ...     B_bias=0, B_D=1)
        >>> len(mamba_blocks(block)), len(mamba_blocks(block, vocab_size=10))
        (11, 12)
    """
    if vocab_size < 0 or classes < 1:
        raise InputError(f"need vocab_size >= 0 and classes >= 1, not {vocab_size}, {classes}")
    c, inner = constants, constants.channel
    if log_mamba_output_bound(c) == -math.inf:
        return []
    log_share = log_output_bound(inner) - _log_channel_output(c)
    log_skip = log(c.B_D) + log(inner.B_u) - _log_channel_output(c)
    log_slope = log(like(SILU_SLOPE, c.B_x))
    log_tokens = logaddexp(log_share + log_token_reach(inner), log_skip) + log_slope
    log_convolved = log_tokens + _log_ratio(c.B_conv * c.B_in * c.B_x, inner.B_u)
    d, d_model = count(inner.d), count(c.d_model)
    blocks: list[Block] = [
        Ball(d, 0 * log_slope, log_excess(c.selective.M_w, c.selective.B_w), copies=classes),
        Ball(d * d_model, log_slope),
        Intervals(d, log_skip),
        Ball(d * d_model, log_convolved),
        Ball(d * count(c.d_conv), log_convolved),
        Ball(d, log_tokens + _log_ratio(c.B_bias, inner.B_u)),
    ]
    if log_share > -math.inf:
        blocks += _selective_part(inner, log_share)
    if vocab_size:
        log_embedding = logaddexp(log_convolved, log_slope)
        blocks.append(Ball(d_model, log_embedding, copies=vocab_size))
    return blocks


def _selective_part(c: ClassFormulas, log_share: Real) -> list[Block]:
    steps = StepSums.of(c.s_A, c.log_largest_step, c.T)
    log_gate = log_share + logaddexp(0 * log_share, steps.log_relative)
    log_reach_q = log_gate + log(c.B_u)
    d, matrix = count(c.d), count(c.N) * count(c.d)
    return [
        Ball(matrix, log_share, log_share + log_excess(c.M_B, c.B_B)),
        Ball(matrix, log_share, log_share + log_excess(c.M_C, c.B_C)),
        Intervals(matrix, log_share + log_state_reach(c, steps)),
        Intervals(d, log_gate + log((c.p_hi - c.p_lo) / 2)),
        Ball(d, log_reach_q + log(c.B_q), log_reach_q + log(c.M_q), copies=d),
    ]


def _log_channel_output(c: MambaBlockFormulas) -> Real:
    """log(Y + B_D B_v), the largest |h_T[j]|."""
    channel = c.channel
    skip = log(c.B_D) + log(channel.B_u)
    return logaddexp(log_output_bound(channel), skip)


def _log_ratio(part: Real, whole: Real) -> Real:
    return log(part) - log(whole)

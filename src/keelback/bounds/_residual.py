"""Mamba blocks with a norm before and a residual around each, and a last norm before the head."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from keelback.bounds._chaining import CoveredClass
from keelback.bounds._covering import Ball, Block, Intervals, scaled
from keelback.bounds._mamba_block import (
    MambaBlockConstants,
    MambaBlockFormulas,
    log_mamba_output_bound,
    mamba_blocks,
)
from keelback.bounds._numbers import Real, ball, exp, log, logaddexp
from keelback.bounds._sharpened import count, log_excess
from keelback.errors import InputError

_LARGEST = 1e60
_SCALARS = ("last_gain", "B_e", "B_w", "M_w", "eps")


class ResidualFormulas(ABC):
    """What follows from the constants of a residual stack, be they doubles or balls."""

    blocks: Sequence[MambaBlockFormulas]
    gains: Sequence[Real]
    last_gain: Real
    B_e: Real
    B_w: Real
    M_w: Real
    eps: Real

    @abstractmethod
    def normed(self) -> list[MambaBlockFormulas]:
        """The blocks with the norm of the tokens that they read, sqrt(d_model) times the gain."""


class BallResidualConstants(ResidualFormulas, SimpleNamespace):
    """The constants of a residual stack as balls, under the same names."""

    def normed(self) -> list[MambaBlockFormulas]:
        """The blocks with the norm of the tokens that they read."""
        return _normed(self)


@dataclass(frozen=True)
class ResidualConstants(ResidualFormulas):
    """A class of residual stacks, x_{l+1} = x_l + f_l(RMSNorm_l(x_l)), f_l a Mamba block.

    RMSNorm(x) = gamma * x / sqrt(|x|^2 / d_model + eps). The logit is w . RMSNorm(x_L) at the last
    position; x_0 are embedded tokens.

    Attributes:
        blocks: the constants of each block, first the one that reads first; B_x is not read, B_w
            and M_w are the spectral norm of the projection back.
        gains: max |gamma| of the norm before each block.
        last_gain: max |gamma| of the norm before the head.
        B_e: largest Euclidean norm of an embedded token.
        B_w: Euclidean norm of a row of the head.
        M_w: its l1 norm.
        eps: of all norms.

    Raises:
        InputError: no block, blocks and gains of different numbers, blocks that differ in T, m, or
            d_model, or a constant that is negative or not finite.

    Source: docs/studies/bounds.md, Corollary 15; Zhang and Sennrich, arXiv 1910.07467, for the
    norm.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> block = MambaBlockConstants(c, B_x=1, d_model=4, B_in=1, B_g=1, B_conv=1, d_conv=4,
        ...     B_bias=0, B_D=1)
        >>> stack = ResidualConstants((block, block), gains=(1.0, 1.0), last_gain=1.0, B_e=1.0,
        ...     B_w=1.0, M_w=2.0, eps=1e-5)
        >>> round(stack.normed()[0].B_x, 6), stack.m
        (2.0, 20000)
    """

    blocks: tuple[MambaBlockConstants, ...]
    gains: tuple[float, ...]
    last_gain: float
    B_e: float
    B_w: float
    M_w: float
    eps: float

    def __post_init__(self) -> None:
        if not self.blocks or len(self.blocks) != len(self.gains):
            raise InputError("a residual stack needs at least one block, and a gain for each")
        first = self.blocks[0]
        for block in self.blocks:
            own = (block.selective.T, block.m, block.d_model)
            if own != (first.selective.T, first.m, first.d_model):
                raise InputError("the blocks of a residual stack must agree in T, m and d_model")
        norms = {f"gain {i}": gain for i, gain in enumerate(self.gains, start=1)}
        norms |= {name: getattr(self, name) for name in ("last_gain", "B_e", "B_w", "M_w")}
        for name, value in norms.items():
            if not 0 <= value <= _LARGEST:
                raise InputError(f"{name} = {value:g} must be finite and not negative")
        if not 0 < self.eps <= _LARGEST:
            raise InputError(f"eps = {self.eps:g} must be finite and positive")

    @property
    def m(self) -> int:
        """Number of training samples."""
        return self.blocks[0].m

    def normed(self) -> list[MambaBlockFormulas]:
        """The blocks with the norm of the tokens that they read."""
        return _normed(self)

    def as_dict(self) -> dict[str, Any]:
        """The constants by block and name, `2.B_A` being the second block's."""
        layers = {
            f"{depth}.{name}": value
            for depth, (block, gain) in enumerate(zip(self.normed(), self.gains, strict=True), 1)
            for name, value in {**block.as_dict(), "gain": gain}.items()  # type: ignore[attr-defined]
        }
        return {**layers, **{name: getattr(self, name) for name in _SCALARS}}

    def balls(self) -> BallResidualConstants:
        """The constants as exact balls.

        Raises:
            InputError: python-flint is not installed.
        """
        return BallResidualConstants(
            blocks=[block.balls() for block in self.blocks],
            gains=[ball(gain) for gain in self.gains],
            **{name: ball(getattr(self, name)) for name in _SCALARS},
        )


def _normed(constants: ResidualFormulas) -> list[MambaBlockFormulas]:
    return [
        block.with_tokens(exp(log(block.d_model) / 2) * gain)
        for block, gain in zip(constants.blocks, constants.gains, strict=True)
    ]


def residual_class(
    constants: ResidualFormulas, *, vocab_size: int = 0, classes: int = 1
) -> CoveredClass:
    """The output bound and the parameters of a residual stack, those next to the head first.

    However large the residual stream is, each block reads tokens of norm sqrt(d_model) max |gamma|,
    so that bounds on outputs do not multiply over the blocks. A norm passes a move of the stream on
    with the factor max |gamma| / sqrt(eps) at most. With the residual around it the factor of a
    block is 1 more than that of norm and block together. These factors multiply, but a cover pays
    for their logarithm alone.

    Args:
        constants: the class.
        vocab_size: number of trained embedding rows, each of norm at most B_e.
        classes: number of rows of the head.

    Source: docs/studies/bounds.md, Corollary 15.
    """
    c = constants
    d_model = count(c.blocks[0].d_model)
    log_width = log(c.blocks[0].d_model) / 2
    log_bound = log(c.B_w) + log_width + log(c.last_gain)
    if log_bound == -math.inf:
        return CoveredClass(log_bound, [])
    covered: list[Block] = [
        Ball(d_model, 0 * log_bound, log_excess(c.M_w, c.B_w), copies=classes),
        Intervals(d_model, 0 * log_bound),
    ]
    # By how much a move of the stream, in its own unit, can move the logit in units of its bound.
    log_passed_on = -(log(c.eps) / 2) - log_width
    for block in reversed(c.normed()):
        log_output = log_mamba_output_bound(block)
        if log_output == -math.inf:
            continue  # The class has no other block there than zero.
        *own, tokens = mamba_blocks(block, vocab_size=1)
        own[0] = Ball(count(block.selective.d) * d_model, own[0].log_reach)
        covered += [scaled(part, log_passed_on + log_output) for part in own]
        log_moved = log_output + tokens.log_reach
        covered.append(Intervals(d_model, log_passed_on + log_moved))
        log_factor = log_moved - log_width - log(c.eps) / 2
        log_passed_on = log_passed_on + logaddexp(0 * log_factor, log_factor)
    if vocab_size:
        covered.append(Ball(d_model, log_passed_on + log(c.B_e), copies=vocab_size))
    return CoveredClass(log_bound, covered)

"""Reaches of the classes' parameters, written again in mpmath from docs/studies/bounds.md.

Each function gives the output bound b and, in the order of the library's blocks, how far each
parameter moves the output within its norm ball, in units of b; a second number is that within its
l1 ball. `etas` are the scales on which the states of each layer are covered (Lemma 4), from the
layer that the library comes to first.
"""

from collections.abc import Sequence
from typing import Any

import mpmath
from mpmath import mpf
from written_again import power_sums, softplus

from keelback.bounds import ComplexConstants, DenseConstants

Reach = tuple[mpf, mpf | None]
SLOPE = mpf(1.1)
"""The double, as the library has it."""

DIGITS = 160
"""Enough for 30 right ones: norms to 1e90, lengths to 1e15 and s_A to 1e3 lose 110, small s_A D T
at most 105."""


class Selective:
    """Selective SSMs at tokens of some norm: Y = B_B B_C norm^3 S1, and S2, S3 over S1."""

    def __init__(self, c: Any, norm: mpf, eta: float | None) -> None:
        self.c, self.norm, self.eta = c, norm, eta
        self.s, self.B_A, T = mpf(c.s_A), mpf(c.B_A), mpf(c.T)
        D = softplus(mpf(c.p_hi) + mpf(c.B_q) * norm)
        geometric, indexed = power_sums(self.s * D, c.T)
        S1 = D * geometric
        if c.s_A < 0:
            s = -self.s
            S2 = min((T - 1) * D, 3 / s + D) / mpmath.e
            S3 = min(D**2 * T * (T - 1) / 2, 1 / s**2 + D / (mpmath.e * s))
        else:
            S2, S3 = (T - 1) * D / mpmath.e, D**2 * indexed
        self.decaying, self.absolute = S2 / S1, S3 / S1
        relative = self.decaying + max(self.s, 0) * self.absolute
        if isinstance(c, DenseConstants):
            relative = self.B_A * self.absolute
        if isinstance(c, ComplexConstants):
            relative += mpf(c.omega) * self.absolute
        self.gate = 1 + relative
        self.tokens = 3 + self.gate * mpf(c.B_q) * norm
        self.output = mpf(c.B_B) * mpf(c.B_C) * norm**3 * S1

    def states(self) -> mpf:
        """Lemma 4: half the length of [-B_A, s_A] on the scale of eta, times S2 + eta S3."""
        width = self.B_A + self.s
        if width == 0:
            return mpf(0)
        assert self.eta is not None
        if self.eta == mpmath.inf:
            return self.absolute * width / 2
        eta = mpf(self.eta)
        if self.s < 0:
            length = mpmath.log((eta + self.B_A) / (eta - self.s))
        else:
            length = mpmath.log1p(self.B_A / eta) + self.s / eta
        return (self.decaying + eta * self.absolute) * length / 2

    def reaches(self) -> list[Reach]:
        """Of W_B, W_C, A, p and q."""
        c = self.c
        found: list[Reach] = [(mpf(1), mpf(c.M_B) / mpf(c.B_B)), (mpf(1), mpf(c.M_C) / mpf(c.B_C))]
        if isinstance(c, DenseConstants):
            found.append((self.B_A * self.absolute, None))
        else:
            found.append((self.states(), None))
        if isinstance(c, ComplexConstants) and c.omega > 0:
            found.append((mpf(c.omega) * self.absolute, None))
        found.append((self.gate * (mpf(c.p_hi) - mpf(c.p_lo)) / 2, None))
        q = self.gate * self.norm
        return [*found, (q * mpf(c.B_q), q * mpf(c.M_q))]


def scaled(reaches: Sequence[Reach], by: mpf) -> list[Reach]:
    return [(own * by, None if other is None else other * by) for own, other in reaches]


def head(c: Any) -> Reach:
    return mpf(1), mpf(c.M_w) / mpf(c.B_w)


def selective(c: Any, etas: Sequence[float], embedding: bool) -> tuple[mpf, list[Reach]]:
    """Theorem 4 and its paragraphs on other states."""
    own = Selective(c, mpf(c.B_u), *etas[:1] or [None])
    tokens: list[Reach] = [(own.tokens, None)] if embedding else []
    return mpf(c.B_w) * own.output, [head(c), *own.reaches(), *tokens]


def stack(layers: Sequence[Any], etas: Sequence[float], embedding: bool) -> tuple[mpf, list[Reach]]:
    """Corollary 8."""
    left, norm, met = list(etas), mpf(layers[0].B_u), []
    for c in layers:
        met.append(Selective(c, norm, None))
        norm = met[-1].output
    found, passed = [head(layers[-1])], mpf(1)
    for own in reversed(met):
        own.eta = left.pop(0) if own.B_A + own.s != 0 and left else None
        found += scaled(own.reaches(), passed)
        passed *= own.tokens
    if embedding:
        found.append((passed, None))
    return mpf(layers[-1].B_w) * norm, found


class MambaBlock:
    """Corollary 9 at tokens of some norm."""

    def __init__(self, c: Any, norm: mpf) -> None:
        self.c, self.through = c, mpf(c.B_conv) * mpf(c.B_in) * norm
        self.v = self.through + mpf(c.B_bias)
        self.own = Selective(c.selective, self.v, None)
        self.skip = mpf(c.B_D) * self.v
        self.H = self.own.output + self.skip
        self.b = mpf(c.selective.B_w) * mpf(c.B_g) * norm * self.H

    def reaches(self, etas: list[float]) -> tuple[list[Reach], mpf]:
        """Of w, W_g, D, W_in, kappa, beta and the selective SSM's; and of the tokens."""
        own, share = self.own, self.own.output / self.H
        own.eta = etas.pop(0) if own.output > 0 and own.B_A + own.s != 0 else None
        theta = share * own.tokens + self.skip / self.H
        convolved = SLOPE * theta * self.through / self.v
        found: list[Reach] = [
            head(self.c.selective), (SLOPE, None), (self.skip / self.H, None), (convolved, None),
            (convolved, None), (SLOPE * theta * mpf(self.c.B_bias) / self.v, None),
        ]  # fmt: skip
        if own.output > 0:
            found += scaled(own.reaches(), share)
        return found, convolved + SLOPE


def mamba_stack(
    blocks: Sequence[Any], etas: Sequence[float], embedding: bool
) -> tuple[mpf, list[Reach]]:
    """Corollary 9 for one block, Corollary 14 for several."""
    left, norm, met = list(etas), mpf(blocks[0].B_x), []
    for c in blocks:
        met.append(MambaBlock(c, norm))
        norm = met[-1].b
    if norm == 0:
        return norm, []
    found: list[Reach] = []
    passed = mpf(1)
    for block in reversed(met):
        own, tokens = block.reaches(left)
        if block is not met[-1]:
            own[0] = (own[0][0], None)
        found += scaled(own, passed)
        passed *= tokens
    if embedding:
        found.append((passed, None))
    return norm, found


def residual(c: Any, etas: Sequence[float], embedding: bool) -> tuple[mpf, list[Reach]]:
    """Corollary 15."""
    left, root, eps = list(etas), mpmath.sqrt(c.blocks[0].d_model), mpmath.sqrt(mpf(c.eps))
    b = mpf(c.B_w) * root * mpf(c.last_gain)
    if b == 0:
        return b, []
    found: list[Reach] = [head(c), (mpf(1), None)]
    passed = 1 / (eps * root)
    for block, gain in reversed(list(zip(c.blocks, c.gains, strict=True))):
        own = MambaBlock(block, root * mpf(gain))
        if own.b == 0:
            continue
        reaches, tokens = own.reaches(left)
        reaches[0] = (reaches[0][0], None)
        found += [*scaled(reaches, passed * own.b), (passed * own.b * tokens, None)]
        passed *= 1 + own.b * tokens / (root * eps)
    if embedding:
        found.append((passed * mpf(c.B_e), None))
    return b, found

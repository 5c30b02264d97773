"""Paying for constants that were read off a trained model: a union bound over a grid of classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from keelback.bounds._covered import AnyConstants, StackConstants
from keelback.bounds._mamba_block import MambaBlockConstants
from keelback.bounds._residual import ResidualConstants
from keelback.bounds._risk import check_confidence, check_margin
from keelback.bounds._states import ComplexConstants
from keelback.errors import InputError

_NORMS = ("B_u", "B_A", "B_B", "M_B", "B_C", "M_C", "B_q", "M_q", "B_w", "M_w")
_NORMS_OF_A_BLOCK = ("B_x", "B_in", "B_g", "B_conv", "B_bias", "B_D")


def level_weight(level: int) -> float:
    """(2/3) / ((|i| + 1) (|i| + 2)): positive weights on all integers that sum to 1.

    Examples:
        >>> round(sum(level_weight(i) for i in range(-1000, 1001)), 2)
        1.0
    """
    return 2 / (3 * (abs(level) + 1) * (abs(level) + 2))


@dataclass(frozen=True)
class Enclosure:
    """A class of the grid that holds a measured one, and its share of the failure probability.

    Attributes:
        constants: the class of the grid, of the same kind as the measured one.
        margin: the margin of the grid at or below the given one, or None.
        log_weight: logarithm of the class's weight; all weights of the grid sum to 1 at most.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> found = ClassGrid().enclose(c, margin=1.5)
        >>> found.margin, found.share(0.05) < 0.05  # 1.25 is the last level below 1.5
        (1.25, True)
    """

    constants: Any
    margin: float | None
    log_weight: float

    def share(self, delta: float) -> float:
        """The part of the failure probability delta of the grid that is this class's, rounded down.

        Raises:
            InputError: delta outside (0, 1), or so small that no double holds the share.
        """
        check_confidence(delta)
        share = delta * math.exp(self.log_weight) * (1 - 2.0**-40)
        if share == 0:
            raise InputError(
                f"delta = {delta:g} is too small for this class: its share of delta is "
                f"10^{(math.log(delta) + self.log_weight) / math.log(10):.0f}, below every double"
            )
        return share


@dataclass(frozen=True)
class ClassGrid:
    """Countably many classes, fixed before the data, of which one holds any trained model.

    Norms lie at 0 or at ratio^i; s_A at 0 or at plus or minus ratio^i; p_lo and p_hi at multiples
    of `spacing`; a margin at ratio^i. Each level has the weight of `level_weight`, shared by the
    branches (zero, positive, negative) that a constant has. A bound that holds for each class with
    probability 1 - weight * delta holds for all of them at once with probability 1 - delta, so
    it holds for the class that the trained model picks. T, m, d and N are known before training.

    Attributes:
        ratio: ratio of neighbouring levels, above 1.
        spacing: distance of neighbouring levels of p, above 0.

    Raises:
        InputError: ratio or spacing outside its domain.

    Source: docs/studies/bounds.md, Theorem 7; the union bound over classes of arXiv
    2502.01473's constants.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> held = ClassGrid(ratio=1.25).enclose(c).constants
        >>> held.B_A, held.s_A >= c.s_A  # 1.25^4 is the first level above 2
        (2.44140625, True)
    """

    ratio: float = 1.25
    spacing: float = 0.25

    def __post_init__(self) -> None:
        if not 1 < self.ratio < math.inf:
            raise InputError(f"ratio = {self.ratio:g} must be finite and above 1")
        if not 0 < self.spacing < math.inf:
            raise InputError(f"spacing = {self.spacing:g} must be finite and positive")

    def enclose(self, constants: AnyConstants, margin: float | None = None) -> Enclosure:
        """The smallest class of the grid that holds the class of `constants`.

        The layers of a stack have a grid each, and a Mamba block has one for its selective part and
        levels for its own norms: their weights are multiplied.

        Args:
            constants: measured constants, possibly after seeing the data.
            margin: a margin chosen after seeing the data, rounded down; None if fixed before.

        Raises:
            InputError: the margin is not positive and finite.
        """
        held, weight = self._class(constants)
        if margin is not None:
            check_margin(margin)
            level = self._level_below(margin)
            margin = self.ratio**level
            weight += math.log(level_weight(level))
        return Enclosure(held, margin, weight)

    def _class(self, constants: AnyConstants) -> tuple[Any, float]:
        """The class that holds one, and the logarithm of its weight."""
        norms: dict[str, Any]
        held: Any
        if isinstance(constants, StackConstants):
            layers = [self._class(layer) for layer in constants.layers]
            held = StackConstants(tuple(layer for layer, _ in layers))
            return held, math.fsum(weight for _, weight in layers)
        if isinstance(constants, ResidualConstants):
            layers = [self._class(block) for block in constants.blocks]
            gains = [self._norm(gain) for gain in constants.gains]
            norms, weight = self._norms(constants, ("last_gain", "B_e", "B_w", "M_w"))
            held = replace(
                constants,
                blocks=tuple(block for block, _ in layers),
                gains=tuple(gain for gain, _ in gains),
                **norms,
            )
            return held, math.fsum([weight, *(share for _, share in (*layers, *gains))])
        if isinstance(constants, MambaBlockConstants):
            selective, weight = self._class(constants.selective)
            norms, log_share = self._norms(constants, _NORMS_OF_A_BLOCK)
            return replace(constants, selective=selective, **norms), weight + log_share
        names = (*_NORMS, "omega") if isinstance(constants, ComplexConstants) else _NORMS
        rounded: dict[str, Any]
        rounded, weight = self._norms(constants, names)
        rounded["s_A"], log_share = self._abscissa(constants.s_A)
        weight += log_share
        for name, direction in (("p_lo", -1), ("p_hi", 1)):
            rounded[name], log_share = self._multiple(getattr(constants, name), direction)
            weight += log_share
        return replace(constants, **rounded), weight

    def _norms(self, constants: Any, names: Sequence[str]) -> tuple[dict[str, Any], float]:
        found = {name: self._norm(getattr(constants, name)) for name in names}
        rounded = {name: value for name, (value, _) in found.items()}
        return rounded, math.fsum(weight for _, weight in found.values())

    def _norm(self, value: float) -> tuple[float, float]:
        if value == 0:
            return 0.0, math.log(1 / 4)
        level = self._level_above(value)
        return self.ratio**level, math.log(3 / 4 * level_weight(level))

    def _abscissa(self, value: float) -> tuple[float, float]:
        if value == 0:
            return 0.0, math.log(1 / 4)
        level = self._level_above(value) if value > 0 else self._level_below(-value)
        return math.copysign(self.ratio**level, value), math.log(3 / 8 * level_weight(level))

    def _multiple(self, value: float, outward: int) -> tuple[float, float]:
        """The multiple of `spacing` next to a value, not above it for -1 and not below it for 1.

        Also gives the logarithm of its level's weight.
        """
        spacing = Fraction(self.spacing)
        level = outward * math.ceil(outward * Fraction(value) / spacing)
        rounded = float(level * spacing)
        if outward * (Fraction(rounded) - level * spacing) < 0:
            rounded = math.nextafter(rounded, outward * math.inf)
        return rounded, math.log(2 / 3) - math.log(abs(level) + 1) - math.log(abs(level) + 2)

    def _level_above(self, value: float) -> int:
        level = math.ceil(math.log(value) / math.log(self.ratio) - 1e-6)
        return level if self.ratio**level >= value else level + 1

    def _level_below(self, value: float) -> int:
        level = math.floor(math.log(value) / math.log(self.ratio) + 1e-6)
        return level if self.ratio**level <= value else level - 1

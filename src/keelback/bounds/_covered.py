"""Classes of all kinds that can be covered, under one name: plain, deep, complex, dense, gated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from keelback.bounds._chaining import CoveredClass
from keelback.bounds._constants import ClassConstants, ClassFormulas
from keelback.bounds._mamba_block import MambaBlockConstants, MambaBlockFormulas, mamba_class
from keelback.bounds._residual import ResidualConstants, ResidualFormulas, residual_class
from keelback.bounds._sharpened import selective_class
from keelback.bounds._stack import stacked_class, stacked_mamba_class


@dataclass(frozen=True)
class StackConstants:
    """Selective SSMs, or Mamba blocks, each reading what the one below gives at every position.

    Attributes:
        layers: the constants of each layer, bottom first, all of one kind, as `stacked_class` and
            `stacked_mamba_class` take them.

    Source: docs/studies/bounds.md, Corollaries 8 and 14.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> StackConstants((c, c)).as_dict()["2.s_A"]
        -0.1
    """

    layers: tuple[ClassConstants | MambaBlockConstants, ...]

    @property
    def m(self) -> int:
        """Number of training samples."""
        return self.layers[-1].m

    def as_dict(self) -> dict[str, Any]:
        """The constants by layer and name, `2.B_A` being the second layer's."""
        return {
            f"{depth}.{name}": value
            for depth, layer in enumerate(self.layers, start=1)
            for name, value in layer.as_dict().items()
        }

    def balls(self) -> tuple[Any, ...]:
        """The layers' constants as exact balls."""
        return tuple(layer.balls() for layer in self.layers)


AnyConstants: TypeAlias = ClassConstants | MambaBlockConstants | StackConstants | ResidualConstants
"""Constants of a class that can be covered, as doubles."""

AnyFormulas: TypeAlias = ClassFormulas | MambaBlockFormulas | ResidualFormulas | Sequence[Any]


def covered_class(
    constants: AnyConstants, *, classes: int = 2, vocab_size: int = 0
) -> tuple[CoveredClass, Callable[[], CoveredClass]]:
    """The class of the logits, in doubles and as a function that gives balls.

    Args:
        constants: the class.
        classes: number of classes; 2 means a single logit.
        vocab_size: number of trained embedding rows, 0 if tokens are fixed vectors.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> approximate, in_balls = covered_class(StackConstants((c, c)), classes=3)
        >>> approximate.log_bound > covered_class(c)[0].log_bound
        True
    """
    rows = 1 if classes == 2 else classes
    own: AnyFormulas = constants.layers if isinstance(constants, StackConstants) else constants
    return (
        _class_of(own, rows, vocab_size),
        lambda: _class_of(constants.balls(), rows, vocab_size),
    )


def _class_of(constants: AnyFormulas, rows: int, vocab_size: int) -> CoveredClass:
    if isinstance(constants, ClassFormulas):
        return selective_class(constants, vocab_size=vocab_size, classes=rows)
    if isinstance(constants, MambaBlockFormulas):
        return mamba_class(constants, vocab_size=vocab_size, classes=rows)
    if isinstance(constants, ResidualFormulas):
        return residual_class(constants, vocab_size=vocab_size, classes=rows)
    stacked = stacked_class if isinstance(constants[0], ClassFormulas) else stacked_mamba_class
    return stacked(constants, vocab_size=vocab_size, classes=rows)

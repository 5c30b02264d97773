"""Which features the gate has learned to let through."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from keelback.errors import InputError

Array = np.ndarray


@dataclass(frozen=True)
class Alignment:
    """A number for each class feature and each irrelevant one, in the order of the features.

    Examples:
        >>> alignment = Alignment(classes=[2.0, 1.5], irrelevant=[0.1, -0.2])
        >>> alignment.o_plus, alignment.o_minus
        (2.0, 1.5)
    """

    classes: Sequence[float]
    irrelevant: Sequence[float]

    @property
    def o_plus(self) -> float:
        """The first class's feature."""
        return self.classes[0]

    @property
    def o_minus(self) -> float:
        """The second class's feature."""
        return self.classes[1]


def projections(
    gating: Float[Array, " dim"], basis: Float[Array, "dim dim"] | None = None, classes: int = 2
) -> Alignment:
    """<w, o_k> on every feature o_k, the columns of `basis` (the standard basis if left out).

    Examples:
        >>> projections(np.array([2.0, 1.5, 0.1])).irrelevant
        [0.1]
    """
    return _split(_checked(gating, basis), classes)


def cosines(
    gating: Float[Array, " dim"], basis: Float[Array, "dim dim"] | None = None, classes: int = 2
) -> Alignment:
    """Cosine of the angle of w with every feature; all zero while w is zero, as it starts.

    Examples:
        >>> cosines(np.array([3.0, 4.0, 0.0])).classes
        [0.6, 0.8]
    """
    products = _checked(gating, basis)
    length = float(np.linalg.norm(gating.astype(np.float64)))
    return _split(products / length if length > 0 else np.zeros_like(products), classes)


def _checked(gating: Array, basis: Array | None) -> Array:
    gating = np.asarray(gating, dtype=np.float64)
    if basis is None:
        return gating
    basis = np.asarray(basis, dtype=np.float64)
    if basis.shape != (len(gating), len(gating)):
        raise InputError(
            f"alignment: {len(gating)} features make a {len(gating)} x {len(gating)} basis, "
            f"not one of shape {basis.shape}"
        )
    return basis.T @ gating


def _split(values: Array, classes: int) -> Alignment:
    numbers = [float(value) for value in values]
    return Alignment(numbers[:classes], numbers[classes:])


@dataclass(frozen=True)
class GateOpenness:
    """Mean of `g = sigmoid(w . x)` over the tokens of each kind; `None` where there are none.

    Examples:
        >>> openness = GateOpenness(own=0.9, other=0.8, irrelevant=0.1)
        >>> openness.own > openness.irrelevant
        True
    """

    own: float | None
    other: float | None
    irrelevant: float | None


def gate_openness(
    gates: Float[Array, "samples length"],
    features: Int[Array, "samples length"],
    labels: Int[Array, " samples"],
    classes: int = 2,
) -> GateOpenness:
    """Average any gate (or step size) over tokens of the own class, other classes, and none.

    Examples:
        >>> gates, features = np.array([[0.9, 0.2]]), np.array([[0, 5]])
        >>> gate_openness(gates, features, labels=np.array([0]))
        GateOpenness(own=0.9, other=None, irrelevant=0.2)
    """
    own = features == labels[:, None]
    relevant = features < classes

    def mean(chosen: Array) -> float | None:
        return float(gates[chosen].mean()) if chosen.any() else None

    return GateOpenness(mean(own), mean(relevant & ~own), mean(~relevant))

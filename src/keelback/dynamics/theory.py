"""What the theorems of arXiv 2602.12499 predict for a setting, and which conditions hold there.

The theorems give rates up to constants that they do not state. Every number here takes those
constants as 1, so a predicted count is a scale to compare slopes with, not a forecast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log

from keelback.dynamics.patterns import Locality, MajorityVoting
from keelback.errors import InputError


@dataclass(frozen=True)
class Prediction:
    """Rates of the theorem for one setting, constants taken as 1.

    Attributes:
        epochs: majority voting 1 / (eta gap^2); locality L^2 / (eta (2^-near - 2^-far)).
        samples: majority voting d / (eta^2 gap^2);
            locality L^2 d / (eta^2 (2^-near - 2^-far)^2).
        class_projection: least <w, o_+-> after the epochs that were run, majority voting only:
            (eta T / 8 L^2) (alpha_r L - alpha_c L)^2.

    Examples:
        >>> Prediction(epochs=120.0, samples=400.0, class_projection=None).epochs
        120.0
    """

    epochs: float
    samples: float
    class_projection: float | None


@dataclass(frozen=True)
class Condition:
    """One condition of the theorem: what it asks for, and whether the setting meets it.

    Examples:
        >>> condition = Condition("samples", "N is large", required=100.0, actual=400.0, holds=True)
        >>> condition.actual >= condition.required
        True
    """

    name: str
    statement: str
    required: float
    actual: float
    holds: bool


def predicted(pattern: MajorityVoting | Locality, step_size: float, epochs: int) -> Prediction:
    """Rates of theorem 1 (majority voting) or theorem 2 (locality), for `epochs` steps.

    Raises:
        InputError: the theorems say nothing about the pattern (more than two classes).

    Examples:
        >>> round(predicted(MajorityVoting(0.4, 0.2), step_size=0.5, epochs=100).epochs)
        50
    """
    length, dim, gap = pattern.length, pattern.dim, pattern.gap
    if isinstance(pattern, Locality):
        return Prediction(
            epochs=_over(length**2, step_size * gap),
            samples=_over(length**2 * dim, (step_size * gap) * (step_size * gap)),
            class_projection=None,
        )
    if pattern.classes != 2:
        raise InputError(f"theory: the theorems take two classes, not {pattern.classes}")
    return Prediction(
        epochs=_over(1, step_size * gap**2),
        samples=_over(dim, (step_size * gap) * (step_size * gap)),
        class_projection=step_size * epochs * gap**2 / 8,
    )


def _over(numerator: float, denominator: float) -> float:
    """The quotient; infinite where the denominator is too small for a float."""
    return numerator / denominator if denominator else inf


def conditions(
    pattern: MajorityVoting | Locality,
    *,
    width: int,
    noise: float,
    samples: int | None,
    step_size: float,
    epochs: int,
    confidence: float | None = None,
) -> Sequence[Condition]:
    """Check the conditions of the theorem for one setting, constants taken as 1.

    Args:
        pattern: the task.
        width: hidden units m.
        noise: standard deviation tau of the token noise.
        samples: training sequences N; `None` for fresh data at every step.
        step_size: eta.
        epochs: steps T that were run.
        confidence: q in `m >= d^2 log q`, at least 2; d where left out, as the theorem leaves
            it open.

    Examples:
        >>> vote = MajorityVoting(0.4, 0.2, dim=16)
        >>> found = conditions(vote, width=50, noise=0.02, samples=400, step_size=0.5, epochs=100)
        >>> [(one.name, one.holds) for one in found]
        [('width', False), ('noise', True), ('samples', False), ('epochs', True)]
    """
    dim = pattern.dim
    q = float(dim) if confidence is None else confidence
    if q < 2:
        raise InputError(f"theory: the confidence parameter q is at least 2, not {q:g}")
    rates = predicted(pattern, step_size, epochs)
    found = [
        _at_least("width", f"m >= d^2 log q (q = {q:g})", dim**2 * log(q), width),
        Condition("noise", "tau <= 1/d", 1 / dim, noise, noise <= 1 / dim),
    ]
    if samples is not None:
        found.append(_at_least("samples", _SAMPLES[type(pattern)], rates.samples, samples))
    found.append(_at_least("epochs", _EPOCHS[type(pattern)], rates.epochs, epochs))
    if isinstance(pattern, Locality):
        closes = pattern.near >= 2 and pattern.far >= 4
        found.append(Condition("near", _NEAR, 2, pattern.near, closes))
    return found


_SAMPLES: dict[type, str] = {
    MajorityVoting: "N >= d / (eta^2 gap^2)",
    Locality: "N >= L^2 d / (eta^2 (2^-near - 2^-far)^2)",
}
_EPOCHS: dict[type, str] = {
    MajorityVoting: "T >= 1 / (eta gap^2)",
    Locality: "T >= L^2 / (eta (2^-near - 2^-far))",
}

# For which pairs the first step closes the gate for irrelevant features: proved in
# proofs/LocalitySigns.v. (For near = 3, far = 4 and fewer than nine tokens it does not move.)
_NEAR = "near >= 2 and far >= 4: irrelevant tokens inside the near pair weigh more"


def _at_least(name: str, statement: str, required: float, actual: float) -> Condition:
    return Condition(name, statement, required, actual, actual >= required)

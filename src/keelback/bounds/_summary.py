"""Every bound of a class at once, in one table."""

import math
from dataclasses import dataclass
from typing import Literal

from keelback.bounds._companions import (
    linear_attention_log_rademacher,
    lti_log_rademacher,
    rnn_log_rademacher,
    softmax_attention_log_rademacher,
)
from keelback.bounds._constants import ClassConstants
from keelback.bounds._covered import AnyConstants, covered_class
from keelback.bounds._lower import lower_log_rademacher
from keelback.bounds._numbers import ball, enclosed, lower_end, upper_end
from keelback.bounds._published import published_log_rademacher
from keelback.bounds._risk import confidence_term, log_covering_gap, log_risk_gap

_LN10 = math.log(10)


@dataclass(frozen=True)
class BoundSummary:
    """All bounds of a class, as natural logarithms.

    Attributes:
        margin: ramp width the risks refer to.
        delta: failure probability the risks refer to.
        classes: number of classes.
        confidence: the part of the Rademacher risks that is due to delta alone.
        log_output_bound: log of the largest |z| at length T.
        log_rademacher: published, sharpened, lower and the companions, by name.
        log_risk: log of risk minus empirical ramp risk by route: published, sharpened, covering.
        rounding: `outward` where no upper bound is below the exact number and no lower bound above
            it, `none` where numbers are right to about ten digits.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> sorted(summarise(c, delta=0.05).log_risk)
        ['covering', 'published', 'sharpened']
    """

    margin: float
    delta: float
    classes: int
    confidence: float
    log_output_bound: float
    log_rademacher: dict[str, float]
    log_risk: dict[str, float]
    rounding: Literal["none", "outward"] = "none"

    def as_dict(self) -> dict[str, object]:
        """The summary for JSON: each number as `log10` and, where a double holds it, as `value`.

        A bound of zero has log10 None. A risk carries `vacuous`: whether it is 1 or more.
        """
        risk: dict[str, object] = {
            name: {**self._number(log), "vacuous": log >= 0} for name, log in self.log_risk.items()
        }
        risk |= {"margin": self.margin, "delta": self.delta, "classes": self.classes}
        risk["confidence_term"] = self.confidence
        return {
            "rounding": self.rounding,
            "output_bound": self._number(self.log_output_bound),
            "rademacher": {
                name: self._number(log, down=name == "lower")
                for name, log in self.log_rademacher.items()
            },
            "risk": risk,
        }

    def _number(self, log: float, *, down: bool = False) -> dict[str, float | None]:
        if log == -math.inf:
            return {"log10": None, "value": 0.0}
        if self.rounding == "none":
            return {"log10": log / _LN10, "value": math.exp(log) if log < 709 else None}
        end = lower_end if down else upper_end
        log10 = end(enclosed(lambda: ball(log) / ball(10).log()))
        value = end(enclosed(lambda: ball(log).exp())) if log < 709 else None
        return {"log10": log10, "value": value}


def summarise(
    constants: AnyConstants,
    *,
    margin: float = 1.0,
    delta: float = 0.05,
    classes: int = 2,
    vocab_size: int = 0,
) -> BoundSummary:
    """Every bound of the class of `constants`.

    The published theorem, the lower bound and the companions speak of plain selective SSMs alone:
    they are left out for other classes.

    Args:
        constants: the class.
        margin: ramp width g in units of the logit.
        delta: failure probability.
        classes: number of classes; 2 means a single logit.
        vocab_size: number of trained embedding rows; 0 when the tokens are fixed vectors. It
            enters the sharpened and the covering bound; the published theorem has fixed tokens.

    Raises:
        InputError: an argument is outside its domain.

    `keelback.bounds.outward.summarise` is the same, rounded outward.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> risk = summarise(c, delta=0.05).as_dict()["risk"]
        >>> round(risk["covering"]["log10"], 2), risk["published"]["vacuous"]
        (-0.75, True)
    """
    confidence = confidence_term(constants.m, delta)
    own, _ = covered_class(constants, vocab_size=vocab_size)
    plain = constants if type(constants) is ClassConstants else None
    rademacher = {} if plain is None else {"published": published_log_rademacher(plain)}
    rademacher["sharpened"] = own.log_rademacher(constants.m)
    if plain is not None:
        rademacher |= {
            "lower": lower_log_rademacher(plain),
            "linear_attention": linear_attention_log_rademacher(plain),
            "softmax_attention": softmax_attention_log_rademacher(plain),
            "rnn": rnn_log_rademacher(plain),
            "lti": lti_log_rademacher(plain),
        }
    risk: dict[str, float] = {
        name: log_risk_gap(
            rademacher[name], constants.m, margin=margin, delta=delta, classes=classes
        )
        for name in ("published", "sharpened")
        if name in rademacher
    }
    risk["covering"] = log_covering_gap(
        constants, margin=margin, delta=delta, classes=classes, vocab_size=vocab_size
    )
    return BoundSummary(margin, delta, classes, confidence, own.log_bound, rademacher, risk)

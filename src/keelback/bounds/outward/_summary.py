"""Every bound of a class at once, rounded outward."""

from fractions import Fraction

from keelback.bounds._constants import ClassConstants
from keelback.bounds._covered import AnyConstants, covered_class
from keelback.bounds._numbers import Real, ball, enclosed, log, logaddexp, sqrt, upper_end
from keelback.bounds._risk import confidence_term
from keelback.bounds._summary import BoundSummary
from keelback.bounds.outward._classes import (
    covering_risk,
    linear_attention_log_rademacher,
    log_covering_gap,
    log_output_bound,
    log_risk_gap,
    lower_log_rademacher,
    lti_log_rademacher,
    published_log_rademacher,
    rnn_log_rademacher,
    sharpened_log_rademacher,
    softmax_attention_log_rademacher,
)
from keelback.bounds.outward._doubles import exact


def log_class_risks(
    sample_risk: float, constants: AnyConstants, summary: BoundSummary, *, vocab_size: int = 0
) -> dict[str, float]:
    """Logarithms of upper bounds on the true risk by route, rounded up.

    The published theorem has fixed tokens: with a trained embedding it bounds no risk, and is left
    out.

    Args:
        sample_risk: empirical ramp risk at the summary's margin, rounded up.
        constants: the class.
        summary: its bounds, from `summarise`.
        vocab_size: number of trained embedding rows, as for `summarise`.

    Raises:
        InputError: an argument is outside its domain, or python-flint is not installed.
    """

    def risk(route: str) -> Real:
        return logaddexp(log(ball(sample_risk)), ball(summary.log_risk[route]))

    left_out = {"covering", "published"} if vocab_size else {"covering"}
    found = {
        route: upper_end(enclosed(lambda route=route: risk(route)))  # type: ignore[misc]
        for route in summary.log_risk
        if route not in left_out
    }
    approximate, in_balls = covered_class(constants, classes=summary.classes, vocab_size=vocab_size)
    covering, _ = covering_risk(
        sample_risk, approximate, in_balls, constants.m,
        margin=summary.margin, delta=summary.delta, classes=summary.classes,
    )  # fmt: skip
    found["covering"] = min(0.0, upper_end(enclosed(lambda: log(ball(covering)))))
    return found


def summarise(
    constants: AnyConstants,
    *,
    margin: float = 1.0,
    delta: float | Fraction = 0.05,
    classes: int = 2,
    vocab_size: int = 0,
) -> BoundSummary:
    """`keelback.bounds.summarise`: upper bounds rounded up, the lower bound rounded down.

    Raises:
        InputError: an argument is outside its domain, or python-flint is not installed.
    """
    confidence_term(constants.m, float(delta))

    def confidence() -> Real:
        return 3 * sqrt(log(2 / exact(delta)) / (2 * ball(constants.m)))

    plain = constants if type(constants) is ClassConstants else None
    rademacher = {} if plain is None else {"published": published_log_rademacher(plain)}
    rademacher["sharpened"] = sharpened_log_rademacher(constants, vocab_size=vocab_size)
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
    return BoundSummary(
        margin=margin,
        delta=float(delta),
        classes=classes,
        confidence=upper_end(enclosed(confidence)),
        log_output_bound=log_output_bound(constants),
        log_rademacher=rademacher,
        log_risk=risk,
        rounding="outward",
    )

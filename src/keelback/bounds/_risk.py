"""From complexity to risk: ramp and margin losses, Rademacher and covering certificates."""

import math

import numpy as np
from jaxtyping import Float

from keelback.bounds._chaining import CoveredClass
from keelback.bounds._covered import AnyConstants, covered_class
from keelback.bounds._covering import class_log_count
from keelback.errors import InputError

_LOSS_RADII = 161
_SMALLEST_LOSS_RADIUS = 1e-8
_BISECTIONS = 100


def check_confidence(delta: float) -> None:
    """Raise an InputError unless 0 < delta < 1."""
    if not 0 < delta < 1:
        raise InputError(f"delta = {delta:g} must lie strictly between 0 and 1")


def check_margin(margin: float) -> None:
    """Raise an InputError unless the margin is positive and finite."""
    if not 0 < margin < math.inf:
        raise InputError(f"margin = {margin:g} must be positive and finite")


def check_classes(classes: int) -> None:
    """Raise an InputError unless there are two classes or more."""
    if classes < 2:
        raise InputError(f"classes = {classes} must be at least 2")


def confidence_term(m: int, delta: float) -> float:
    """3 sqrt(log(2 / delta) / (2 m)), what the empirical Rademacher bound pays for confidence.

    Raises:
        InputError: m < 1 or delta outside (0, 1).

    Source: Mohri, Rostamizadeh and Talwalkar, Foundations of Machine Learning, Theorem 3.3.

    Examples:
        >>> round(confidence_term(m=20_000, delta=0.05), 4)
        0.0288
    """
    if m < 1:
        raise InputError(f"m = {m} must be at least 1")
    check_confidence(delta)
    return 3 * math.sqrt((math.log(2) - math.log(delta)) / (2 * m))


def loss_complexity_factor(margin: float, classes: int = 2) -> float:
    """Factor from the complexity of one logit to that of the loss.

    Two classes, one logit: the ramp loss min(1, max(0, 1 - y z / g)) is 1/g-Lipschitz (Talagrand).
    K > 2 classes, one logit each: the ramp of the margin z_y - max_{k != y} z_k is
    sqrt(2)/g-Lipschitz in the l2 norm of the logits, and vector contraction gives
    sqrt(2) K times that, 2 K / g in all.

    Raises:
        InputError: margin not positive and finite, or fewer than two classes.

    Source: Ledoux and Talagrand; Maurer, ALT 2016, Corollary 4.

    Examples:
        >>> loss_complexity_factor(margin=2.0)
        0.5
    """
    check_margin(margin)
    check_classes(classes)
    return 1 / margin if classes == 2 else 2 * classes / margin


def log_risk_gap(
    log_rademacher: float, m: int, *, margin: float, delta: float, classes: int = 2
) -> float:
    """Logarithm of the largest excess of risk over empirical ramp (margin) risk.

    With probability at least 1 - delta over a sample of independent examples, for every f in the
    class, R(f) <= R_S(f) + 2 factor Rad + 3 sqrt(log(2/delta) / (2 m)). The share of errors is at
    most the ramp risk R(f). The class and the margin must not depend on the sample.

    Args:
        log_rademacher: logarithm of a bound on the empirical Rademacher complexity of one logit.
        m: number of samples.
        margin: ramp width g in units of the logit.
        delta: failure probability.
        classes: number of classes; 2 means a single logit.

    Raises:
        InputError: margin, delta, m or classes outside its domain.

    Source: Mohri et al., Theorem 5.8; `loss_complexity_factor`.

    Examples:
        >>> import math
        >>> round(math.exp(log_risk_gap(math.log(0.01), 20_000, margin=1.0, delta=0.05)), 4)
        0.0488
    """
    confidence = confidence_term(m, delta)
    log_factor = math.log(2 * loss_complexity_factor(margin, classes))
    return float(np.logaddexp(log_factor + log_rademacher, math.log(confidence)))


def log_covering_gap(
    constants: AnyConstants,
    *,
    margin: float,
    delta: float,
    classes: int = 2,
    vocab_size: int = 0,
) -> float:
    """Logarithm of the excess of risk over empirical ramp risk, by one cover and Hoeffding.

    For every e: the loss class has a cover of radius e that holds on all inputs, not only on the
    sample, so with probability at least 1 - delta

        R(f) <= R_S(f) + 2 e + sqrt((log N(e) + log(1/delta)) / (2 m))   for every f in the class.

    There is no symmetrisation, and only the logarithm of the output bound enters: losses lie in
    [0, 1] whatever the logits do.

    Args:
        constants: the class (B_w and M_w bound each row of the head for several classes).
        margin: ramp width g.
        delta: failure probability.
        classes: number of classes; 2 means a single logit.
        vocab_size: number of trained embedding rows, 0 if tokens are fixed vectors.

    Raises:
        InputError: an argument is outside its domain.

    Source: docs/studies/bounds.md, Theorem 6.

    Examples:
        >>> import math
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> round(math.exp(log_covering_gap(c, margin=1.0, delta=0.05)), 3)
        0.176
    """
    covered, _ = covered_class(constants, vocab_size=vocab_size, classes=classes)
    counts, radii = loss_cover(covered, margin, classes)
    check_confidence(delta)
    deviations = np.sqrt((counts - math.log(delta)) / (2 * constants.m))
    return float(np.log(np.min(2 * radii + deviations)))


def covering_risk(
    empirical_risk: float,
    constants: AnyConstants,
    *,
    margin: float,
    delta: float,
    classes: int = 2,
    vocab_size: int = 0,
) -> float:
    """The covering certificate with kl in place of Hoeffding, at a given empirical ramp risk.

    R(f) <= e + kl^{-1}(R_S(f) + e; (log N(e) + log(1/delta)) / m), the smallest over e on a grid
    fixed in advance. Every e is covered by the same union bound only if chosen before the data,
    so delta is shared by the grid.

    Args:
        empirical_risk: ramp risk R_S(f) on the m samples, in [0, 1].
        constants: the class.
        margin: ramp width g.
        delta: failure probability.
        classes: number of classes; 2 means a single logit.
        vocab_size: number of trained embedding rows.

    Raises:
        InputError: an argument is outside its domain.

    Source: docs/studies/bounds.md, Theorem 6; Langford, JMLR 2005, for the kl inversion.

    Examples:
        >>> c = ClassConstants(B_u=1, s_A=-0.1, B_A=2, B_B=1, M_B=2, B_C=1, M_C=2, B_q=0.5, M_q=1,
        ...     B_w=1, M_w=2, p_lo=-1, p_hi=0, T=1000, m=20_000, d=8, N=4)
        >>> round(covering_risk(0.1, c, margin=1.0, delta=0.05), 3)
        0.239
    """
    if not 0 <= empirical_risk <= 1:
        raise InputError(f"empirical_risk = {empirical_risk:g} must lie in [0, 1]")
    covered, _ = covered_class(constants, vocab_size=vocab_size, classes=classes)
    counts, radii = loss_cover(covered, margin, classes)
    return best_radius(empirical_risk, counts, radii, constants.m, delta)[0]


def best_radius(
    empirical_risk: float,
    counts: Float[np.ndarray, " radii"],
    radii: Float[np.ndarray, " radii"],
    m: int,
    delta: float,
) -> tuple[float, int]:
    """The smallest covering bound over the radii, which share delta, and the radius's index.

    Args:
        empirical_risk: ramp risk on the m samples.
        counts: log covering numbers of the loss class.
        radii: the radii they belong to.
        m: number of samples.
        delta: failure probability.

    Raises:
        InputError: delta outside (0, 1).
    """
    check_confidence(delta)
    log_events = math.log(len(radii)) - math.log(delta)
    means = np.minimum(1.0, empirical_risk + radii)
    bounds = radii + _kl_inverses(means, (counts + log_events) / m)
    best = int(np.argmin(bounds))
    return min(1.0, float(bounds[best])), best


def kl_inverse(mean: float, budget: float) -> float:
    """The largest p >= mean with kl(mean || p) <= budget, for Bernoulli means; approximate.

    Right to about twelve digits and meant to err upwards, which it does not always do for budgets
    below 1e-8 or p above 0.99999; `keelback.bounds.outward.kl_inverse` does.

    Raises:
        InputError: mean outside [0, 1] or a negative or undefined budget.

    Source: Langford, JMLR 2005; Seeger, JMLR 2002.

    Examples:
        >>> round(kl_inverse(0.1, budget=0.01), 4)
        0.1477
    """
    check_inversion(mean, budget)
    return float(_kl_inverses(np.array([mean]), np.array([budget]))[0])


def check_inversion(mean: float, budget: float) -> None:
    """Raise an InputError unless 0 <= mean <= 1 and budget >= 0.

    Examples:
        >>> check_inversion(0.1, budget=0.01)  # in the domain: nothing to say
    """
    if not 0 <= mean <= 1 or not budget >= 0:
        raise InputError(
            f"kl inversion needs a mean in [0, 1] and a budget >= 0, not {mean}, {budget}"
        )


def _kl_inverses(
    means: Float[np.ndarray, " bounds"], budgets: Float[np.ndarray, " bounds"]
) -> Float[np.ndarray, " bounds"]:
    """`kl_inverse` of each pair, by bisection of the log odds of p; the upper end is returned.

    kl(q || p) >= (1 - q) log_odds(p) - log 2, which says where the search can end.
    """
    of_zero = np.where(budgets > 0, np.nextafter(-np.expm1(-budgets), 1), 0.0)
    closed = np.where(means > 0, 1.0, of_zero)
    searched = (means > 0) & (means < 1) & (budgets < math.inf)
    mean, budget = means[searched], budgets[searched]
    low = np.log(mean) - np.log1p(-mean)
    high = np.maximum(low, (budget + math.log(2)) / (1 - mean))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        enough = _bernoulli_kl(mean, middle) >= budget
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    high += 1e-12 * np.maximum(1.0, np.abs(high))
    # Just below 1 the sum and the quotient are off by less than two units in the last place.
    found = np.nextafter(np.nextafter(1 / (1 + np.exp(-high)), 2), 2)
    closed[searched] = np.where(budget > 0, np.minimum(1.0, found), mean)
    return closed


def _bernoulli_kl(
    mean: Float[np.ndarray, " bounds"], log_odds: Float[np.ndarray, " bounds"]
) -> Float[np.ndarray, " bounds"]:
    log_one, log_zero = -np.logaddexp(0.0, -log_odds), -np.logaddexp(0.0, log_odds)
    return mean * (np.log(mean) - log_one) + (1 - mean) * (np.log1p(-mean) - log_zero)


def loss_radii() -> Float[np.ndarray, " radii"]:
    """The radii, in units of the loss, that covering bounds choose from."""
    return np.geomspace(0.5, _SMALLEST_LOSS_RADIUS, _LOSS_RADII)


def loss_cover(
    covered: CoveredClass, margin: float, classes: int
) -> tuple[Float[np.ndarray, " radii"], Float[np.ndarray, " radii"]]:
    """Log covering numbers of the loss class and the radii, in units of the loss.

    Raises:
        InputError: margin not positive and finite, or fewer than two classes.
    """
    check_margin(margin)
    check_classes(classes)
    radii = loss_radii()
    if covered.log_bound == -math.inf:
        return np.zeros_like(radii), radii
    log_lipschitz = 0.0 if classes == 2 else math.log(2)
    relative = np.log(radii) + math.log(margin) - log_lipschitz - covered.log_bound
    return class_log_count(covered.blocks, relative), radii

"""Confidence bounds from counts, draws and losses, rounded outward."""

import math
from collections.abc import Sequence
from fractions import Fraction

from keelback.bounds import _risk
from keelback.bounds._martingale import azuma_excess, check_rate, freedman_excess
from keelback.bounds._numbers import Real, flint, upper_end
from keelback.bounds._risk import check_confidence
from keelback.bounds.outward._doubles import certainly, exact, smallest_double
from keelback.errors import InputError

Probability = float | Fraction
"""A failure probability; a fraction is meant exactly, and so is a double."""

_WORKING = 192
_SMALL, _NEAR, _MOST_STEPS = 1e-9, 1e-13, 100


def kl_inverse(mean: float, budget: float) -> float:
    """The smallest double p >= mean for which kl(mean || p) >= budget is certain, at most 1.

    The exact inverse, the largest p with kl(mean || p) <= budget, is not above it.

    Raises:
        InputError: mean outside [0, 1] or a negative or undefined budget.

    Source: Langford, JMLR 2005; Seeger, JMLR 2002.
    """
    _risk.check_inversion(mean, budget)
    if budget == 0 or mean == 1:
        return mean
    if budget == math.inf:
        return 1.0

    def enough(p: float) -> bool:
        return p > mean and certainly(lambda: _kl(exact(mean), exact(p)) - exact(budget))

    return smallest_double(enough, _guess(mean, budget), mean, 1.0)


def _guess(mean: float, budget: float) -> float:
    """About where kl(mean || p) reaches the budget; how near only decides how long a search takes.

    Newton's method in the log odds of p, in which kl is convex, from a point above.
    """
    if mean == 0:
        return -math.expm1(-budget)
    spread = mean * (1 - mean)
    if budget < _SMALL * spread:
        return mean + math.sqrt(2 * budget * spread)
    odds = (budget + math.log(2)) / (1 - mean)
    least = math.log(mean) - math.log1p(-mean)
    odds, p = max(odds, least + 1), 1.0
    for _ in range(_MOST_STEPS):
        tail = math.exp(-abs(odds))
        log_tail = math.log1p(tail)
        log_p, log_rest = min(odds, 0.0) - log_tail, -max(odds, 0.0) - log_tail
        p = (1.0 if odds > 0 else tail) / (1 + tail)
        above = (
            mean * (math.log(mean) - log_p) + (1 - mean) * (math.log1p(-mean) - log_rest) - budget
        )
        if p <= mean or above <= _NEAR * budget:
            break
        odds -= above / (p - mean)
    return p


def _kl(mean: Real, p: Real) -> Real:
    if p == 1:
        return type(p)("inf")
    loss = (1 - mean) * ((1 - mean) / (1 - p)).log()
    return loss if mean == 0 else loss + mean * (mean / p).log()


def clopper_pearson(errors: int, examples: int, delta: Probability) -> float:
    """The smallest double p for which P(Binomial(examples, p) <= errors) <= delta is certain.

    Raises:
        InputError: no example, more errors than examples, or delta outside (0, 1).

    Source: Clopper and Pearson, Biometrika 1934; Langford, JMLR 2005, for test set bounds.
    """
    from keelback.bounds._held_out import clopper_pearson as approximate

    guess = approximate(errors, examples, float(delta))
    if errors == examples:
        return 1.0

    def rare(p: float) -> bool:
        return p > 0 and certainly(lambda: exact(delta) - binomial_tail(errors, examples, exact(p)))

    return smallest_double(rare, guess, 0.0, 1.0)


def binomial_tail(errors: int, examples: int, p: Real) -> Real:
    """P(Binomial(examples, p) <= errors), a ball, for 0 < p < 1 and errors < examples.

    The terms are added from the last one down; once they fall by a factor r < 1/2 or are below
    2^-200 of the sum, the rest is at most the next one over 1 - r, because the ratios fall.
    """
    arb = type(p)
    odds = (1 - p) / p
    log_ways = (
        arb(examples + 1).lgamma() - arb(errors + 1).lgamma() - arb(examples - errors + 1).lgamma()
    )
    term = (log_ways + errors * p.log() + (examples - errors) * (1 - p).log()).exp()
    total = arb(0)
    for k in range(errors, -1, -1):
        total += term
        ratio = k * odds / (examples - k + 1)
        term = term * ratio
        if k > 0 and ratio < 1 and term < total * arb(2) ** -200:
            rest = term / (1 - ratio)
            return total + rest.union(arb(0))
    return total


def log_inverse(delta: Probability, *shares: Probability) -> float:
    """log(1 / (delta times all shares)), rounded up."""
    with flint().ctx.workprec(_WORKING):
        product = exact(delta)
        for share in shares:
            product = product * exact(share)
        return upper_end(-product.log())


def test_set_bound(mean: float, examples: int, delta: Probability) -> float:
    """kl^{-1}(mean; log(1/delta) / n): for the mean of n independent values in [0, 1].

    Where the values are errors of one classifier `clopper_pearson` is smaller; this one is also
    for an average of errors over draws of a classifier that the examples did not decide.

    Raises:
        InputError: no example, a mean outside [0, 1] or delta outside (0, 1).

    Source: Hoeffding, JASA 1963, Theorem 1.
    """
    check_confidence(float(delta))
    if examples < 1:
        raise InputError("a test set bound needs at least one example")
    with flint().ctx.workprec(_WORKING):
        budget = upper_end(-exact(delta).log() / examples)
    return kl_inverse(mean, budget)


def pac_bayes_bound(sample_error: float, kl: float, examples: int, delta: Probability) -> float:
    """kl^{-1}(sample_error; (KL + log(2 sqrt(n) / delta)) / n), for the Gibbs error.

    Raises:
        InputError: no example, a negative KL, an error outside [0, 1] or delta outside (0, 1).

    Source: Seeger, JMLR 2002; Maurer, 2004 (the constant 2 sqrt(n)).
    """
    check_confidence(float(delta))
    if examples < 1 or not kl >= 0:
        raise InputError(f"a PAC-Bayes bound needs n >= 1 and KL >= 0, not {examples} and {kl:g}")
    if kl == math.inf:
        return 1.0
    with flint().ctx.workprec(_WORKING):
        n = exact(examples)
        budget = (exact(kl) + (2 * n.sqrt() / exact(delta)).log()) / n
        return kl_inverse(sample_error, upper_end(budget))


def monte_carlo_bound(values: Sequence[Probability], delta: Probability) -> float:
    """Upper confidence bound on the mean of a variable in [0, 1] from independent draws of it.

    The smaller of the kl (Chernoff) tail and the empirical Bernstein bound, at delta / 2 each.

    Raises:
        InputError: no draw, or delta outside (0, 1).

    Source: Langford and Caruana, NeurIPS 2001; Maurer and Pontil, COLT 2009, Theorem 4.
    """
    check_confidence(float(delta))
    k = len(values)
    if k < 1:
        raise InputError("a Monte-Carlo bound needs at least one draw")
    with flint().ctx.workprec(_WORKING):
        exactly = [exact(value) for value in values]
        mean = sum(exactly, exact(0)) / k
        budget = upper_end((2 / exact(delta)).log() / k)
        chernoff = kl_inverse(min(1.0, upper_end(mean)), budget)
        if k == 1:
            return chernoff
        variance = sum(((value - mean) ** 2 for value in exactly), exact(0)) / (k - 1)
        log_term = (4 / exact(delta)).log()
        spread = (2 * variance.max(exact(0)) * log_term / k).sqrt()
        bernstein = mean + spread + 7 * log_term / (3 * (k - 1))
        return min(chernoff, upper_end(bernstein), 1.0)


def martingale_bound(
    mean: float,
    tokens: int,
    width: float,
    confidence: float,
    rate: float,
    squares: float | None = None,
) -> float:
    """Upper bound on the mean conditional expectation of losses in [0, width] along a sequence.

    `mean + azuma_excess`, or with `squares` `mean + freedman_excess`, never above `width`.

    Args:
        mean: mean of the losses.
        tokens: how many there are.
        width: upper bound on a loss.
        confidence: log(1 / failure probability) for this rate, everything chosen paid for.
        rate: the parameter of the supermartingale, one of `RATES`.
        squares: sum of the squared differences between losses and their forecasts.

    Raises:
        InputError: an argument is outside its domain.

    Source: docs/studies/bounds.md, Theorem 12.
    """
    check_rate(rate)
    if tokens < 1 or not 0 <= mean <= width < math.inf or not confidence >= 0:
        raise InputError(
            f"a martingale bound needs tokens >= 1 and 0 <= mean <= width, not {tokens}, {mean:g} "
            f"and {width:g}"
        )
    if confidence == math.inf:
        return width
    with flint().ctx.workprec(_WORKING):
        paid, n, w, r = exact(confidence), exact(tokens), exact(width), exact(rate)
        if squares is None:
            excess = azuma_excess(paid, n, w, r)
        else:
            excess = freedman_excess(paid, n, w, r, exact(squares))
        return min(width, upper_end(exact(mean) + excess))


def betting_bound(
    losses: Sequence[int], unit: float, width: float, confidence: float, rate: float
) -> float:
    """Upper bound on the expectation of independent losses in [0, width].

    The smallest double m for which sum_i log(1 + rate (m - Z_i) / width) >= confidence is certain,
    Z_i = losses[i] * unit: were the expectation m or more, the product would be a supermartingale
    that has come so high with probability e^-confidence at most, at whichever point one stops.

    Args:
        losses: whole numbers.
        unit: what a loss of 1 stands for.
        width: upper bound on Z_i.
        confidence: log(1 / failure probability) for this rate, everything chosen paid for.
        rate: the stake, in (0, 1), chosen before the losses or paid for.

    Raises:
        InputError: an argument is outside its domain.

    Source: Waudby-Smith and Ramdas, JRSS B 2024, Section 4; docs/studies/bounds.md, Theorem 11.
    """
    check_rate(rate)
    if not losses or min(losses) < 0 or max(losses) * unit > width:
        raise InputError("a betting bound needs losses, each between 0 and the width")

    def wealthy(m: float) -> bool:
        def excess() -> Real:
            arb = flint().arb
            stake = exact(rate) / exact(width)
            step, start = stake * exact(unit), 1 + stake * exact(m)
            wealth = arb(1)
            for loss in losses:
                wealth = wealth * (start - step * loss)
            return wealth.log() - exact(confidence)

        return certainly(excess)

    mean = unit * math.fsum(losses) / len(losses)
    guess = mean + width * confidence / (rate * len(losses))
    return smallest_double(wealthy, min(guess, width), 0.0, width)

"""Inversions and martingale bounds that are rounded outward: never on the wrong side."""

import math
import random
from fractions import Fraction

import mpmath
import pytest
from mpmath import mpf
from random_sets import SETS, is_close_above, log_uniform

from keelback import bounds
from keelback.bounds import StepSums, azuma_excess, freedman_excess, outward
from keelback.bounds._numbers import ball, lower_end, upper_end
from keelback.bounds.outward._doubles import smallest_double
from keelback.errors import InputError

flint = pytest.importorskip("flint", reason="python-flint is missing (the extra certify)")
pytestmark = pytest.mark.usefixtures("unchecked")


def random_mean(draw: random.Random) -> float:
    return draw.choice(
        [0.0, 1.0, 1 - 2**-53, draw.random(), log_uniform(draw, 1e-60, 1), 1e-60, 0.999999]
    )


def exact_kl(mean: float, p: float) -> mpf:
    q, p = mpf(mean), mpf(p)
    if p == 1:
        return mpmath.inf if q < 1 else mpf(0)
    rest = (1 - q) * (mpmath.log1p(-q) - mpmath.log1p(-p)) if q < 1 else 0
    return rest + (q * mpmath.log(q / p) if q else 0)


def test_kl_inverses_of_random_means_and_budgets() -> None:
    draw = random.Random(3)
    with mpmath.workdps(100):
        for _ in range(SETS):
            mean = random_mean(draw)
            budget = draw.choice([0.0, 1e-16, log_uniform(draw, 1e-80, 1e3), draw.random()])
            found = outward.kl_inverse(mean, budget)
            assert mean <= found <= 1
            if budget == 0 or mean == 1:
                assert found == mean
                continue
            assert exact_kl(mean, found) >= budget, (mean, budget)
            below = math.nextafter(found, 0)
            assert below <= mean or exact_kl(mean, below) < budget, (mean, budget)


def excess_of_tail(errors: int, examples: int, p: float, delta: float) -> int:
    """P(Binomial(examples, p) <= errors) - delta times a common denominator, exactly."""
    one, whole = p.as_integer_ratio()
    share, of = delta.as_integer_ratio()
    power, total = 1, 0
    for k in range(errors + 1):
        total = total * (whole - one) + math.comb(examples, k) * power
        power *= one
    return total * (whole - one) ** (examples - errors) * of - share * whole**examples


def test_clopper_pearson_of_random_counts() -> None:
    draw = random.Random(4)
    for _ in range(SETS):
        examples = draw.choice([1, draw.randint(1, 40)])
        errors = draw.randint(0, examples)
        delta = draw.choice([0.05, draw.random() or 0.5, log_uniform(draw, 1e-300, 1)])
        found = outward.clopper_pearson(errors, examples, delta)
        if errors == examples:
            assert found == 1
            continue
        assert excess_of_tail(errors, examples, found, delta) <= 0
        below = math.nextafter(found, 0)
        assert found == 1 or excess_of_tail(errors, examples, below, delta) >= 0


@pytest.mark.parametrize(("errors", "examples"), [(4235, 25000), (0, 10**6), (123_456, 10**6)])
@pytest.mark.parametrize("delta", [0.05, 1e-10, Fraction(1, 30), 3e-16])
def test_clopper_pearson_of_large_counts(errors: int, examples: int, delta: Fraction) -> None:
    found = outward.clopper_pearson(errors, examples, delta)
    with mpmath.workdps(40):

        def tail(p: float) -> mpf:
            log_first = (
                mpmath.loggamma(examples + 1) - mpmath.loggamma(errors + 1)
                - mpmath.loggamma(examples - errors + 1) + errors * mpmath.log(p)
                + (examples - errors) * mpmath.log1p(-mpf(p))
            )  # fmt: skip
            term, total, k = mpmath.exp(log_first), mpf(0), errors
            while term > total * mpf(10) ** -45:
                total += term
                term *= k * (1 - mpf(p)) / (mpf(p) * (examples - k + 1))
                k -= 1
            return total

        exactly = mpf(delta.numerator) / delta.denominator if isinstance(delta, Fraction) else delta
        assert tail(found) <= exactly
        assert tail(math.nextafter(found, 0)) > exactly


def test_monte_carlo_and_pac_bayes_bounds_of_random_draws() -> None:
    draw = random.Random(5)
    with mpmath.workdps(80):
        for _ in range(SETS // 20):
            delta = draw.choice([0.05, log_uniform(draw, 1e-12, 1)])
            values = [random_mean(draw) for _ in range(draw.randint(2, 12))]
            found = outward.monte_carlo_bound(values, delta)
            k, mean = len(values), mpmath.fsum(values) / len(values)
            variance = mpmath.fsum((mpf(value) - mean) ** 2 for value in values) / (k - 1)
            log_term = mpmath.log(4 / mpf(delta))
            bernstein = (
                mean + mpmath.sqrt(2 * variance * log_term / k) + 7 * log_term / (3 * (k - 1))
            )
            by_kl = exact_kl_reaches(mean, found, mpmath.log(2 / mpf(delta)) / k)
            assert found >= bernstein or by_kl or found == 1
            n, kl = draw.randint(1, 10**6), draw.choice([0.0, log_uniform(draw, 1e-9, 1e6)])
            error = random_mean(draw)
            budget = (mpf(kl) + mpmath.log(2 * mpmath.sqrt(n) / mpf(delta))) / n
            assert exact_kl_reaches(error, outward.pac_bayes_bound(error, kl, n, delta), budget)
            alone = outward.test_set_bound(error, n, delta)
            assert exact_kl_reaches(error, alone, mpmath.log(1 / mpf(delta)) / n)


def exact_kl_reaches(mean: mpf, p: float, budget: mpf) -> bool:
    return p == 1 or (p >= mean and exact_kl(mean, p) >= budget)


def test_martingale_bounds_of_random_losses() -> None:
    draw = random.Random(6)
    with mpmath.workdps(60):
        for _ in range(SETS):
            width, tokens = log_uniform(draw, 1e-3, 1e3), int(log_uniform(draw, 1, 1e12))
            mean, confidence = draw.random() * width, log_uniform(draw, 1e-3, 1e9)
            rate = draw.choice(bounds.RATES)
            squares = draw.choice([None, 0.0, draw.random() * tokens * width**2])
            found = outward.martingale_bound(mean, tokens, width, confidence, rate, squares)
            r, w, n = mpf(rate), mpf(width), mpf(tokens)
            if squares is None:
                excess = w * (confidence / r + r * n / 8) / n
                assert azuma_excess(confidence, tokens, width, rate) == pytest.approx(float(excess))
            else:
                scaled = mpf(squares) / w**2
                excess = w * ((-mpmath.log(1 - r) - r) * scaled + confidence) / (r * n)
                again = freedman_excess(confidence, tokens, width, rate, squares)
                assert again == pytest.approx(float(excess), rel=1e-6)
            value = min(w, mean + excess)
            assert value <= found <= value + 4 * math.ulp(width)


def test_betting_bounds_of_random_losses() -> None:
    draw = random.Random(7)
    with mpmath.workdps(60):
        for _ in range(300):
            unit, width = 2.0**-10, draw.choice([1.0, 11.3])
            top = int(draw.choice([width, 0.3 * width]) / unit)
            losses = [draw.randint(0, top) for _ in range(draw.randint(1, 60))]
            rate, confidence = draw.choice(bounds.RATES), log_uniform(draw, 1e-3, 50)
            found = outward.betting_bound(losses, unit, width, confidence, rate)

            def wealth(
                m: float, losses: list[int] = losses, unit: float = unit, rate: float = rate,
                width: float = width,
            ) -> mpf:  # fmt: skip
                stake = mpf(rate) / mpf(width)
                return mpmath.fsum(mpmath.log(1 + stake * (m - x * unit)) for x in losses)

            assert found == width or wealth(found) >= confidence
            assert wealth(math.nextafter(found, 0)) < confidence


def test_risk_gaps_are_rounded_up() -> None:
    draw = random.Random(8)
    with mpmath.workdps(60):
        for _ in range(1000):
            log_complexity = draw.uniform(-60, 300)
            m, margin = draw.randint(1, 10**6), log_uniform(draw, 1e-3, 1e3)
            delta, classes = draw.random() or 0.5, draw.choice([2, 3, 10])
            found = outward.log_risk_gap(
                log_complexity, m, margin=margin, delta=delta, classes=classes
            )
            factor = mpf(1 if classes == 2 else 2 * classes) / mpf(margin)
            confidence = 3 * mpmath.sqrt(mpmath.log(2 / mpf(delta)) / (2 * m))
            value = mpmath.log(2 * factor * mpmath.exp(log_complexity) + confidence)
            assert is_close_above(found, value)


def test_ends_of_balls_are_doubles_outside() -> None:
    with flint.ctx.workprec(128):
        third = ball(1) / 3
    assert Fraction(lower_end(third)) < Fraction(1, 3) < Fraction(upper_end(third))
    assert math.nextafter(lower_end(third), 1) == upper_end(third)
    assert upper_end(ball(0.5)) == lower_end(ball(0.5)) == 0.5
    assert upper_end(ball(10) ** 400) == math.inf
    assert lower_end(ball(10) ** 400) == math.nextafter(math.inf, 0)
    assert upper_end(ball(10) ** -400) == 5e-324
    assert lower_end(-(ball(10) ** -400)) == -5e-324
    assert upper_end(ball(0) / 0) == math.inf


@pytest.mark.parametrize("guess", [0.0, 0.3, 0.7, 1.0])
def test_the_smallest_double_is_found_from_any_guess(guess: float) -> None:
    assert smallest_double(lambda x: x >= 0.4, guess, 0.0, 1.0) == 0.4
    assert smallest_double(lambda x: False, guess, 0.0, 1.0) == 1.0
    assert smallest_double(lambda x: True, guess, 0.25, 1.0) == 0.25


def test_doubles_err_where_the_outward_inverse_does_not() -> None:
    """The faults of the review: a p whose kl falls short of the budget, a tail above delta."""
    with mpmath.workdps(60):
        short = [
            (mean, budget)
            for mean in (0.1, 0.3, 0.5, 0.9)
            for budget in (1e-16, 3e-16, 1e-15, 1e-9)
            if exact_kl(mean, bounds.kl_inverse(mean, budget)) < budget
        ]
        assert short
        for mean, budget in short:
            assert exact_kl(mean, outward.kl_inverse(mean, budget)) >= budget
    above = []
    for delta in (0.05, 1e-10, 3e-16, 1e-100):
        for errors in range(10):
            approximate = bounds.clopper_pearson(errors, 10, delta)
            found = outward.clopper_pearson(errors, 10, delta)
            assert approximate == pytest.approx(found, rel=1e-12)
            assert excess_of_tail(errors, 10, found, delta) <= 0
            if excess_of_tail(errors, 10, approximate, delta) > 0:
                above.append((errors, delta))
    assert above


def test_arguments_outside_their_domain_are_refused() -> None:
    with pytest.raises(InputError, match="not possible"):
        outward.clopper_pearson(5, 4, 0.1)
    with pytest.raises(InputError, match="rate = 1"):
        outward.martingale_bound(1.0, 10, 2.0, 1.0, 1.0)
    with pytest.raises(InputError, match="0 <= mean <= width"):
        outward.martingale_bound(3.0, 10, 2.0, 1.0, 0.5)
    with pytest.raises(InputError, match="between 0 and the width"):
        outward.betting_bound([5], 1.0, 2.0, 1.0, 0.5)
    with pytest.raises(InputError, match="at least one draw"):
        outward.monte_carlo_bound([], 0.1)
    with pytest.raises(InputError, match="at least one example"):
        outward.test_set_bound(0.1, 0, 0.1)
    assert isinstance(StepSums.of(-0.1, 0.0, 5), StepSums)

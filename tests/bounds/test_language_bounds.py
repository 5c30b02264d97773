"""Bounds for language models: code lengths, losses along a text, losses of documents."""

import itertools
import math
import random
from collections.abc import Callable
from fractions import Fraction

import mpmath
import pytest
from mpmath import mpf

from keelback import bounds
from keelback.bounds import outward
from keelback.errors import InputError

needs_flint = pytest.mark.skipif(
    not bounds.has_flint(), reason="python-flint is missing (the extra certify)"
)
HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)


def test_the_prior_over_all_files_sums_to_one() -> None:
    """Exactly: all sizes of b bits weigh 2^-b together (Kraft)."""
    for bits in range(1, 12):
        sizes = range(2 ** (bits - 1), 2**bits)
        weight = sum(Fraction(256**size, 2 ** bounds.code_length(size)) for size in sizes)
        assert weight == Fraction(1, 2**bits)


def test_no_code_word_begins_another() -> None:
    def word(content: bytes) -> str:
        size = f"{len(content):b}"
        return "0" * (len(size) - 1) + size + "".join(f"{byte:08b}" for byte in content)

    words = [
        word(bytes(content)) for n in (1, 2, 3) for content in itertools.product((0, 7), repeat=n)
    ]
    assert [len(own) for own in words] == [
        bounds.code_length(n) for n in (1, 2, 3) for _ in range(2**n)
    ]
    assert not any(a != b and b.startswith(a) for a in words for b in words)


@needs_flint
@pytest.mark.parametrize("code_bits", [0, 1, 524_287, 10**9])
@pytest.mark.parametrize("delta", [0.05, Fraction(1, 40), 1e-300])
def test_the_price_of_a_code(code_bits: int, delta: float | Fraction) -> None:
    with mpmath.workdps(60):
        value = code_bits * mpmath.log(2) + mpmath.log(1024)
        value -= mpmath.log(mpf(Fraction(delta).numerator) / Fraction(delta).denominator)
        found = outward.occam_confidence(code_bits, delta, 1024)
        assert value <= found <= value * (1 + mpf(2) ** -52)
    assert bounds.occam_confidence(code_bits, float(delta), 1024) == pytest.approx(found, rel=1e-12)


@needs_flint
def test_the_largest_loss_of_a_token() -> None:
    assert outward.largest_loss(256, 2.0**-5) == bounds.largest_loss(256, 2.0**-5) == 13.0
    with mpmath.workdps(50):
        for vocab_size, smoothing in ((50_257, 0.01), (3, 1.0), (1, 0.3), (256, 1e-300)):
            value = mpmath.log(vocab_size / mpf(smoothing), 2)
            found = outward.largest_loss(vocab_size, smoothing)
            assert value <= found <= value + 2 * math.ulp(float(value))
            approximate = bounds.largest_loss(vocab_size, smoothing)
            assert approximate == pytest.approx(found, rel=1e-12)
    assert outward.largest_loss(1, 1.0) == 0.0


Process = Callable[[tuple[Fraction, ...]], tuple[Fraction, Fraction, Fraction]]
"""From the past losses: the chance of a high loss, that loss (the other is 0), the forecast."""


def steady(past: tuple[Fraction, ...]) -> tuple[Fraction, Fraction, Fraction]:
    return QUARTER, Fraction(1), QUARTER


def rare_catastrophe(past: tuple[Fraction, ...]) -> tuple[Fraction, Fraction, Fraction]:
    """Small losses so far, and forecasts that say nothing of the large one."""
    return Fraction(1, 20), Fraction(1), Fraction(0)


def forecasts_too_high(past: tuple[Fraction, ...]) -> tuple[Fraction, Fraction, Fraction]:
    return HALF, Fraction(1), Fraction(1)


def raises_the_stake_while_lucky(past: tuple[Fraction, ...]) -> tuple[Fraction, Fraction, Fraction]:
    """After a run of luck the conditional mean rises: it adapts to the bound."""
    lucky = sum(past) * 3 < len(past) + 1
    return (Fraction(3, 4), Fraction(1), HALF) if lucky else (Fraction(1, 10), HALF, QUARTER)


@pytest.mark.parametrize(
    "process", [steady, rare_catastrophe, forecasts_too_high, raises_the_stake_while_lucky]
)
@pytest.mark.parametrize("rate", [0.25, 0.5, 0.875])
def test_the_chance_that_a_bound_ever_fails(process: Process, rate: float) -> None:
    """Summed over every sequence of nine losses, at every length at once."""
    delta = 0.2
    paid = -math.log(delta)
    failed = {"azuma": 0.0, "freedman": 0.0, "betting": 0.0}

    def walk(
        past: tuple[Fraction, ...],
        chance: float,
        sums: tuple[float, float, float, float],
        alive: frozenset[str],
    ) -> None:
        means, forecasts, squares, log_wealth = sums
        n = len(past)
        if n:
            mean = float(sum(past)) / n
            limits = {
                "azuma": mean + bounds.azuma_excess(paid, n, 1.0, rate),
                "freedman": mean + bounds.freedman_excess(paid, n, 1.0, rate, squares),
                "betting": bounds.betting_mean(paid, n, 1.0, rate, forecasts / n, log_wealth),
            }
            assert limits["betting"] <= limits["freedman"] + 1e-12
            now = {name for name in alive if means / n > limits[name] + 1e-12}
            for name in now:
                failed[name] += chance
            alive -= now
        if n == 9 or not alive:
            return
        p, high, forecast = process(past)
        for loss, own in ((high, p), (Fraction(0), 1 - p)):
            gap = float(forecast - loss)
            walk(
                (*past, loss),
                chance * float(own),
                (
                    means + float(p * high),
                    forecasts + float(forecast),
                    squares + gap**2,
                    log_wealth + math.log1p(rate * gap),
                ),
                alive,
            )

    walk((), 1.0, (0.0, 0.0, 0.0, 0.0), frozenset(failed))
    assert all(chance <= delta for chance in failed.values()), failed


@needs_flint
def test_betting_martingale_bounds_of_random_sums() -> None:
    draw = random.Random(12)
    with mpmath.workdps(60):
        for _ in range(2000):
            width, tokens = draw.choice([1.0, 13.0, 24.7]), int(10 ** draw.uniform(0, 9))
            confidence, rate = 10 ** draw.uniform(-2, 7), draw.choice(bounds.RATES)
            forecast = Fraction(draw.randint(0, int(width * 2**20)), 2**20)
            wealth = Fraction(int(draw.uniform(-0.05, 0.05) * tokens * 2**20), 2**20)
            found = outward.betting_martingale_bound(
                forecast, wealth, tokens, width, confidence, rate
            )
            value = mpf(forecast.numerator) / forecast.denominator
            value += (
                mpf(width)
                * (confidence - mpf(wealth.numerator) / wealth.denominator)
                / (mpf(rate) * tokens)
            )
            value = max(mpf(0), min(mpf(width), value))
            assert value <= found <= value + 2 * math.ulp(float(value))
            if value < width:
                again = bounds.betting_mean(
                    confidence, tokens, width, rate, float(forecast), float(wealth)
                )
                assert max(0.0, again) == pytest.approx(found, rel=1e-9, abs=1e-9)


@needs_flint
@pytest.mark.parametrize(
    ("forecast", "wealth", "confidence", "bound"),
    [
        (Fraction(2), Fraction(0), math.inf, 13.0),
        (Fraction(2), Fraction(0), 1e300, 13.0),
        (Fraction(13), Fraction(0), 0.0, 13.0),
        (Fraction(0), Fraction(0), 0.0, 0.0),
    ],
    ids=["infinite price", "vacuous", "forecast at the width", "no loss foreseen"],
)
def test_martingale_bounds_at_the_ends(
    forecast: Fraction, wealth: Fraction, confidence: float, bound: float
) -> None:
    """One token, and prices of nothing and of everything."""
    found = outward.betting_martingale_bound(forecast, wealth, 1, 13.0, confidence, 0.5)
    assert found == bound


@needs_flint
def test_document_bounds_of_random_values() -> None:
    draw = random.Random(13)
    with mpmath.workdps(50):
        for _ in range(300):
            n = draw.choice([2, 3, 30, 25_000])
            mean = Fraction(draw.randint(0, 1000), 1000)
            variance = Fraction(draw.randint(0, 100), 1000)
            confidence = 10 ** draw.uniform(-2, 3)
            found = outward.document_bound(mean, variance, n, confidence)
            centre = mpf(mean.numerator) / mean.denominator
            spread = mpf(variance.numerator) / variance.denominator
            log_term = confidence + mpmath.log(4)
            bernstein = (
                centre + mpmath.sqrt(2 * spread * log_term / n) + 7 * log_term / (3 * (n - 1))
            )
            budget = (confidence + mpmath.log(2)) / n
            assert found == 1 or found >= bernstein or kl(centre, mpf(found)) >= budget
            assert found <= min(1, bernstein) * (1 + 1e-15)
            hoeffding = centre + mpmath.sqrt(budget / 2)
            assert found <= hoeffding + 1e-12
            again = bounds.document_bound(float(mean), float(variance), n, confidence)
            assert again == pytest.approx(found, rel=1e-9)


def kl(q: mpf, p: mpf) -> mpf:
    one = q * mpmath.log(q / p) if q > 0 else mpf(0)
    return one + ((1 - q) * mpmath.log((1 - q) / (1 - p)) if q < 1 else mpf(0))


@pytest.mark.parametrize("mean", [0.01, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("n", [2, 7, 40])
def test_the_chance_that_a_document_bound_fails(mean: float, n: int) -> None:
    """Of values that are 0 or 1, the widest there are, summed over all counts."""
    delta = 0.2
    failed = 0.0
    for ones in range(n + 1):
        average = ones / n
        variance = n * average * (1 - average) / (n - 1)
        if bounds.document_bound(average, variance, n, -math.log(delta)) < mean:
            failed += math.comb(n, ones) * mean**ones * (1 - mean) ** (n - ones)
    assert failed <= delta


def test_documents_whose_losses_hardly_vary_need_no_hoeffding() -> None:
    """25,000 reviews with losses of 2.1 bits of 13, give or take 0.3: 0.02 bits, not 0.2."""
    confidence = bounds.occam_confidence(0, 0.05, 16)
    found = 13 * bounds.document_bound(2.1 / 13, (0.3 / 13) ** 2, 25_000, confidence)
    assert 2.1 < found < 2.13
    assert 13 * math.sqrt(confidence / 50_000) > 0.13


def test_arguments_outside_their_domain_are_refused() -> None:
    for act, message in (
        (lambda: bounds.code_length(0), "at least 1 byte"),
        (lambda: bounds.occam_confidence(-1, 0.05), "a length >= 0"),
        (lambda: bounds.occam_confidence(8, 0.05, 0), "choices >= 1"),
        (lambda: bounds.occam_confidence(8, 1.0), "delta = 1"),
        (lambda: bounds.largest_loss(0, 0.5), "V >= 1"),
        (lambda: bounds.largest_loss(256, 0.0), "alpha in"),
        (lambda: bounds.document_bound(0.5, 0.1, 1, 3.0), "needs two of them"),
        (lambda: bounds.document_bound(1.5, 0.1, 5, 3.0), "mean in"),
        (lambda: bounds.document_bound(0.5, math.nan, 5, 3.0), "a variance"),
    ):
        with pytest.raises(InputError, match=message):
            act()


@needs_flint
def test_outward_arguments_outside_their_domain_are_refused() -> None:
    with pytest.raises(InputError, match="rate = 1"):
        outward.betting_martingale_bound(Fraction(1), Fraction(0), 5, 2.0, 1.0, 1.0)
    with pytest.raises(InputError, match="tokens >= 1"):
        outward.betting_martingale_bound(Fraction(1), Fraction(0), 0, 2.0, 1.0, 0.5)
    with pytest.raises(InputError, match="needs two of them"):
        outward.document_bound(Fraction(1, 2), Fraction(-1), 5, 1.0)

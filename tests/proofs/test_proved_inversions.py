"""What the code inverts keeps the claims that Coq proves of the inverses (docs/bounds.md)."""

import math

import pytest
from coq_bounds import binomial_mass, binomial_tail, bisect, independent_errors, kl, log_odds
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from keelback.bounds import clopper_pearson, kl_inverse, pac_bayes_bound

MEANS = st.floats(1e-6, 1 - 1e-6)
BUDGETS = st.floats(1e-5, 5)


@given(MEANS, MEANS, MEANS)
@settings(max_examples=150, deadline=None)
def test_kl_is_monotone(first: float, second: float, third: float) -> None:
    q, p, beyond = sorted(map(mpf, (first, second, third)))
    assert kl(q, p) >= 0
    assert kl(q, p) < kl(q, beyond) or p == beyond
    assert kl(p, beyond) <= kl(q, beyond)
    assert (1 - q) * log_odds(p) - mp.log(2) <= kl(q, p)


@given(st.one_of(st.just(0.0), MEANS), BUDGETS)
@example(0.7746135851595398, 3.0020257583705705)  # One number above what rounding gives is too low.
@settings(max_examples=150, deadline=None)
def test_the_inverse_of_the_code_keeps_the_claim(mean: float, budget: float) -> None:
    q, c = mpf(mean), mpf(budget)
    p = mpf(kl_inverse(mean, budget))
    # The hypothesis of `kl_claim_holds`, at fifty digits: the claim is right.
    assert p == 1 or kl(q, p) >= c
    # And `kl_claim_tight`: one that is smaller by more than rounding is not.
    smaller = p - (1 - p) * mpf("1e-9") - mpf("1e-15")
    if smaller > q:
        assert kl(q, smaller) < c
    if mean == 0:
        assert float(p) == pytest.approx(-math.expm1(-budget), rel=1e-12)
    examples = 200
    divergence = max(0.0, budget * examples - math.log(2 * math.sqrt(examples) / 0.05))
    bound = pac_bayes_bound(mean, divergence, examples, 0.05)
    spent = (mpf(divergence) + mp.log(2 * mp.sqrt(examples) / mpf(0.05))) / examples
    assert bound == 1 or kl(q, mpf(bound)) >= spent * (1 - mpf("1e-12"))
    larger = min(mean + 0.01, 1.0)
    assert pac_bayes_bound(larger, divergence, examples, 0.05) >= bound


@given(st.floats(1e-3, 0.97), BUDGETS)
@settings(max_examples=40, deadline=None)
def test_bisection_ends_where_the_code_does(mean: float, budget: float) -> None:
    with mp.workdps(150):
        q, c = mpf(mean), mpf(budget)

        def probability(odds: object) -> object:
            return 1 / (1 + mp.exp(-odds))

        def enough(odds: object) -> bool:
            return kl(q, probability(odds)) >= c

        low = log_odds(q)
        high = max(low, (c + mp.log(2)) / (1 - q))
        assert enough(high)
        before, beyond = bisect(enough, 100, low, high)
        assert enough(beyond)
        assert not enough(before)
        assert abs((beyond - before) - (high - low) / mpf(2) ** 100) < mpf(10) ** -100
        found = kl_inverse(mean, budget)
        assert found >= probability(before)
        # The code goes up by 1e-12 of the log odds before it rounds.
        above = probability(beyond + mpf("3e-12") * max(1, abs(beyond)))
        assert found <= min(mpf(1), above * (1 + mpf("1e-13")))


@st.composite
def _counts(draw: st.DrawFn) -> tuple[int, int]:
    examples = draw(st.integers(1, 200))
    return draw(st.integers(0, examples)), examples


@given(_counts(), st.floats(1e-6, 0.5))
@settings(max_examples=80, deadline=None)
def test_the_bound_of_the_code_inverts_the_tail(counts: tuple[int, int], delta: float) -> None:
    errors, examples = counts
    p = mpf(clopper_pearson(errors, examples, delta))
    if errors == examples:
        assert p == 1
        return
    tail = binomial_tail(examples, errors, p)
    assert float(tail) == pytest.approx(delta, rel=1e-8)
    assert binomial_tail(examples, errors, p * (1 - mpf("1e-8"))) > delta
    assert binomial_tail(examples, errors, min(p * (1 + mpf("1e-8")), mpf(1))) < delta
    beta = mp.betainc(errors + 1, examples - errors, 0, p, regularized=True)
    assert abs(1 - beta - tail) < mpf(10) ** -20


@given(st.integers(1, 25), st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.data())
@settings(max_examples=80, deadline=None)
def test_the_tail_falls(n: int, first: float, second: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n - 1))
    low, high = sorted((mpf(first), mpf(second)))
    assert binomial_tail(n, k, mpf(0)) == 1
    assert binomial_tail(n, k, mpf(1)) == 0
    if low < high:
        assert binomial_tail(n, k, high) < binomial_tail(n, k, low)
    slope = -n * math.comb(n - 1, k) * low**k * (1 - low) ** (n - 1 - k)
    step = mpf(10) ** -18 * low * (1 - low)
    rise = binomial_tail(n, k, low + step) - binomial_tail(n, k, low - step)
    assert abs(rise / (2 * step) - slope) <= abs(slope) * mpf(10) ** -9 + mpf(10) ** -25


@pytest.mark.parametrize("n", [1, 5, 10])
@pytest.mark.parametrize("delta", [0.01, 0.05, 0.3])
def test_the_bound_covers(n: int, delta: float) -> None:
    claims = [clopper_pearson(errors, n, delta) for errors in range(n + 1)]
    for p in [mpf(k) / 97 for k in range(98)]:
        failed = independent_errors(n, p, lambda k, p=p: mpf(claims[k] < p))
        assert failed <= delta * (1 + 1e-12)
        binomial = sum(binomial_mass(n, p, k) * (claims[k] < p) for k in range(n + 1))
        assert abs(binomial - failed) < mpf(10) ** -30

"""Chaining and the lower bound as Coq speaks of them are the code's (docs/bounds.md)."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from coq_bounds import (
    absolute_sign_sum_formula,
    chaining_sum,
    nested_chaining,
    output_bound,
    pairing,
    sample_norm,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf

from keelback import bounds
from keelback.bounds import ClassConstants, chaining_radii, lower_log_rademacher

Vector = tuple[float, ...]


def _signs(m: int) -> list[Vector]:
    return list(itertools.product((1.0, -1.0), repeat=m))


def _rademacher(m: int, vectors: list[Vector]) -> float:
    """The complexity of a finite class by its definition, over all sign vectors."""
    largest = [max(pairing(sigma, x) for x in vectors) / m for sigma in _signs(m)]
    return math.fsum(largest) / len(largest)


def _distance(x: Vector, y: Vector) -> float:
    return sample_norm(len(x), [a - b for a, b in zip(x, y, strict=True)])


def _net(vectors: list[Vector], eps: float) -> list[Vector]:
    """Centres inside the class: a point is taken where no earlier one is within eps."""
    centres: list[Vector] = []
    for x in vectors:
        if all(_distance(x, c) > eps for c in centres):
            centres.append(x)
    return centres


@pytest.mark.parametrize("seed", range(12))
def test_finite_classes_keep_the_bounds(seed: int) -> None:
    """Massart's lemma, one net, nested nets and their best sum, against the complexity itself."""
    generator = np.random.default_rng(seed)
    m, size = int(generator.integers(2, 7)), int(generator.integers(1, 25))
    vectors = [tuple(row) for row in generator.normal(size=(size, m)).tolist()]
    b = max(sample_norm(m, x) for x in vectors)
    rademacher = _rademacher(m, vectors)
    assert rademacher <= b * math.sqrt(2 * math.log(size) / m) + 1e-12
    eps = [b * r for r in (1, 0.7, 0.4, 0.2)]
    counts = [mpf(0), *(mp.log(len(_net(vectors, radius))) for radius in eps[1:])]
    for level in (1, 2, 3):
        one = eps[level] + b * math.sqrt(2 * counts[level] / m)
        assert rademacher <= one + 1e-12
        assert rademacher <= chaining_sum(m, counts, eps, level) + 1e-12
    best = nested_chaining(m, [(radius / b, n) for radius, n in zip(eps, counts, strict=True)])
    assert rademacher <= b * best + 1e-12
    assert best * b <= min(chaining_sum(m, counts, eps, level) for level in range(4)) + 1e-12
    # A cover in the largest difference is a net: the norm on the sample is no larger.
    for x, y in itertools.pairwise(vectors):
        assert _distance(x, y) <= max(abs(p - q) for p, q in zip(x, y, strict=True)) + 1e-12


@given(st.floats(0, 40), st.floats(0, 60), st.floats(0, 3), st.integers(1, 10**7))
@settings(max_examples=25, deadline=None)
def test_the_dynamic_programme_is_that_of_the_code(
    slope: float, offset: float, power: float, m: int
) -> None:
    def log_count(log_radii: np.ndarray) -> np.ndarray:
        return offset - slope * log_radii * np.abs(log_radii) ** power / 10

    radii = chaining_radii()
    assert radii[0] == 0
    counts = [mpf(n) for n in log_count(radii)]
    levels = [(mp.exp(radius), n) for radius, n in zip(radii[1:], counts[1:], strict=True)]
    proved = nested_chaining(m, levels)
    found = bounds.nested_chaining(log_count, m)
    assert found == pytest.approx(float(proved), rel=1e-12)
    assert 0 < found <= 1
    # Proposition 2 speaks of any chain of radii; the programme's value is below each of them.
    generator = np.random.default_rng(m)
    for _ in range(5):
        chain = sorted(generator.choice(np.arange(1, len(radii)), 4, replace=False))
        eps = [mpf(1), *(levels[level - 1][0] for level in chain)]
        along = [mpf(0), *(max(counts[level], mpf(0)) for level in chain)]
        assert found <= float(chaining_sum(m, along, eps, 4)) * (1 + 1e-12)


@pytest.mark.parametrize("m", [*range(1, 13), 49, 50, 1001])
def test_the_mean_absolute_sign_sum_is_that_of_the_code(m: int) -> None:
    formula = absolute_sign_sum_formula(m)
    assert math.exp(bounds.log_mean_absolute_sign_sum(m)) == pytest.approx(float(formula), rel=1e-9)
    binomial = sum(math.comb(m, k) * abs(m - 2 * k) for k in range(m + 1))
    assert mpf(binomial) / 2**m == formula
    if m <= 12:
        signs = _signs(m)
        assert len(set(signs)) == len(signs) == 2**m
        assert mpf(sum(abs(sum(sigma)) for sigma in signs)) / len(signs) == formula


@pytest.mark.parametrize("m", [10**6, 10**6 + 1, 10**6 + 2])
def test_the_expansion_for_many_samples_agrees_with_the_formula(m: int) -> None:
    """Beyond a million samples the code uses an expansion, of which Coq says nothing."""
    h = (m + 1) // 2
    log_choose = mp.loggamma(m + 1) - mp.loggamma(h + 1) - mp.loggamma(m - h + 1)
    exact = mp.log(2 * h) + log_choose - m * mp.log(2)
    assert bounds.log_mean_absolute_sign_sum(m) == pytest.approx(float(exact), abs=1e-9)


@pytest.mark.parametrize("s_A", [-0.5, 0.0, 0.3])
@pytest.mark.parametrize("m", [1, 6, 7])
def test_the_lower_bound_is_that_of_the_code(s_A: float, m: int) -> None:
    c = ClassConstants(
        B_u=1.3, s_A=s_A, B_A=3.0, B_B=1.5, M_B=2.4, B_C=0.8, M_C=1.5, B_q=0.9, M_q=1.2,
        B_w=1.1, M_w=1.5, p_lo=-1.0, p_hi=0.5, T=7, m=m, d=2, N=2,
    )  # fmt: skip
    b = output_bound(c)
    proved = b * absolute_sign_sum_formula(m) / m
    assert lower_log_rademacher(c) == pytest.approx(float(mp.log(proved)), abs=1e-9)
    # The two functions of constant magnitude b, which differ in sign, have just this complexity.
    both = [(float(b),) * m, (-float(b),) * m]
    assert _rademacher(m, both) == pytest.approx(float(proved), rel=1e-12)
    smaller = replace(c, B_w=c.B_w / 2)
    assert lower_log_rademacher(c, lower_log_rademacher(smaller)) < lower_log_rademacher(c)

"""Chaining against explicit chains, Dudley's integral and known complexities."""

import itertools
import math

import numpy as np
import pytest

from keelback.bounds import (
    chaining_radii,
    dudley_integral,
    log_dudley_of_capacity,
    nested_chaining,
    volume_log_count,
)


def parametric(dimension: int) -> object:
    return lambda log_radii: volume_log_count(-log_radii, dimension)


@pytest.mark.parametrize("m", [1, 10, 1000, 10**6])
@pytest.mark.parametrize("dimension", [1, 30, 2000])
def test_nested_nets_are_never_worse_than_dudley_or_one_net(dimension: int, m: int) -> None:
    count = parametric(dimension)
    nested = nested_chaining(count, m)
    radii = np.exp(chaining_radii())
    one_net = np.min(radii + np.sqrt(2 * count(np.log(radii)) / m))
    assert nested <= min(1.0, dudley_integral(count, m), one_net) * (1 + 1e-12)


def test_dynamic_programme_finds_the_best_chain_of_three() -> None:
    """Every chain of at most three levels through the grid is at least as long."""
    log_radii = chaining_radii()
    radii = np.exp(log_radii)
    m, count = 500, parametric(10)
    roots = np.sqrt(2 * count(log_radii) / m)
    best = min(
        radii[chain[-1]]
        + sum(radii[before] * roots[after] for before, after in itertools.pairwise((0, *chain)))
        for depth in (1, 2, 3)
        for chain in itertools.combinations(range(1, 60, 3), depth)
    )
    assert nested_chaining(count, m) <= best * (1 + 1e-12)


def test_linear_functions_of_one_scalar_have_known_complexity() -> None:
    """F = {x -> a x : |a| <= 1} on x = 1: Rad = E|mean of signs|, and both bounds are above."""
    m = 400
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(20_000, m))
    true = float(np.abs(signs.mean(axis=1)).mean())
    nested = nested_chaining(parametric(1), m)
    assert true <= nested <= 8 * true
    assert nested <= dudley_integral(parametric(1), m)


@pytest.mark.parametrize(("log_capacity", "log_bound"), [(0.0, 3.0), (-2.0, 1.0), (1.0, 1.5)])
def test_closed_dudley_is_the_infimum_for_inverse_square_counts(
    log_capacity: float, log_bound: float
) -> None:
    m = 10_000
    capacity, bound = math.exp(log_capacity), math.exp(log_bound)
    cuts = np.geomspace(1e-6 * bound, bound, 400_001)
    values = 4 * cuts + 12 / math.sqrt(m) * capacity * np.log(bound / cuts)
    closed = log_dudley_of_capacity(log_capacity, log_bound, m)
    assert math.exp(closed) == pytest.approx(values.min(), rel=1e-6)


def test_closed_dudley_without_headroom_is_still_above_the_output_bound() -> None:
    closed = log_dudley_of_capacity(10.0, 0.0, 4)
    assert closed == pytest.approx(math.log(12) + 10 - math.log(2))
    assert closed > math.log(4)

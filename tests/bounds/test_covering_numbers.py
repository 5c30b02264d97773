"""Covers against explicit covers, and the split of a radius against a general optimiser."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from keelback.bounds import (
    Ball,
    Intervals,
    cheapest_log_count,
    class_log_count,
    interval_log_count,
    log_maurey_capacity,
    maurey_log_count,
    volume_log_count,
)
from keelback.errors import InputError


def packing(points: np.ndarray, radius: float) -> int:
    """Size of a maximal radius-separated subset; its members cover the points."""
    kept: list[np.ndarray] = []
    for point in points:
        if all(np.linalg.norm(point - other) > radius for other in kept):
            kept.append(point)
    return len(kept)


@pytest.mark.parametrize("radius", [0.9, 0.6, 0.35])
@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_volume_count_covers_a_densely_filled_ball(dimension: int, radius: float) -> None:
    points = np.random.default_rng(0).normal(size=(4000, dimension))
    lengths = np.random.default_rng(1).random((4000, 1)) ** (1 / dimension)
    points *= lengths / np.linalg.norm(points, axis=1, keepdims=True)
    assert math.log(packing(points, radius)) <= volume_log_count(-math.log(radius), dimension)


@pytest.mark.parametrize("terms", [1, 2, 5, 20])
@pytest.mark.parametrize("dimension", [1, 3, 40])
def test_shrunk_averages_of_vertices_are_as_close_as_the_lemma_says(
    terms: int, dimension: int
) -> None:
    """Derandomised Maurey: picking vertices greedily never does worse than their expectation."""
    generator = np.random.default_rng(dimension)
    shrink = math.sqrt(terms) / (1 + math.sqrt(terms))
    vertices = np.concatenate([np.eye(dimension), -np.eye(dimension)])
    for _ in range(50):
        target = generator.normal(size=dimension) * (generator.random(dimension) < 0.5)
        target[0] += 1e-3
        target /= np.abs(target).sum()
        total = np.zeros(dimension)
        for done in range(terms):
            remaining = (terms - done - 1) * target
            ends = shrink / terms * (total + vertices + remaining) - target
            total = total + vertices[np.argmin(np.linalg.norm(ends, axis=1))]
        error = np.linalg.norm(shrink / terms * total - target)
        assert error <= 1 / (1 + math.sqrt(terms)) + 1e-12


@given(st.floats(0.001, 10), st.integers(1, 10**6))
def test_maurey_count_is_never_below_the_number_of_shrunk_averages(
    radius: float, dimension: int
) -> None:
    terms = max(0, math.ceil((1 / radius - 1) ** 2)) if radius < 1 else 0
    needed = (
        math.lgamma(2 * dimension + terms) - math.lgamma(terms + 1) - math.lgamma(2 * dimension)
    )
    assert maurey_log_count(-math.log(radius), dimension) >= needed * (1 - 1e-9) - 1e-9


@pytest.mark.parametrize(("radius", "count"), [(2.0, 1), (1.0, 1), (0.99, 2), (0.5, 2), (0.3, 4)])
def test_interval_count_is_exact(radius: float, count: int) -> None:
    assert interval_log_count(-math.log(radius), 3) == pytest.approx(3 * math.log(count))


def test_one_ball_is_enough_at_the_whole_radius() -> None:
    for count in (maurey_log_count, volume_log_count, interval_log_count):
        assert count(0.0, 5) == 0
        assert count(-3.0, 5) == 0


def test_the_cheaper_cover_is_maurey_for_coarse_and_volume_for_fine_radii() -> None:
    dimension, ratios = 1000, np.array([0.2, 1.0, 8.0])
    cheapest = cheapest_log_count(ratios, dimension, ratios)
    assert cheapest[0] == maurey_log_count(0.2, dimension)
    assert cheapest[2] == volume_log_count(8.0, dimension)
    assert (cheapest_log_count(ratios, dimension) == volume_log_count(ratios, dimension)).all()


@pytest.mark.parametrize("count", [volume_log_count, interval_log_count])
def test_counts_survive_astronomical_ratios(count: object) -> None:
    assert count(1e18, 3) == pytest.approx(3e18)  # type: ignore[operator]
    assert maurey_log_count(1e18, 3) == math.inf


BLOCKS = [
    Ball(40, 0.3, 0.9),
    Ball(3, 2.0, 2.1),
    Ball(200, -0.5, 0.1, copies=2),
    Intervals(6, 1.5),
    Intervals(1, -4.0),
]


def smooth_count(block: Ball | Intervals, radius: float, kind: int) -> float:
    if isinstance(block, Intervals):
        return block.coordinates * math.log1p(math.exp(block.log_reach) / radius)
    if kind == 0:
        k = block.coordinates * block.copies
        return k * math.log1p(2 * math.exp(block.log_reach) / radius)
    assert block.log_absolute_reach is not None
    vertices = block.copies * math.log(2 * block.coordinates + 1)
    return math.exp(2 * block.log_absolute_reach) * vertices / radius**2


@pytest.mark.parametrize("radius", [3.0, 0.8, 0.1, 1e-3])
def test_split_agrees_with_a_general_optimiser(radius: float) -> None:
    found = class_log_count(BLOCKS, np.array([math.log(radius)]))[0]
    best = math.inf
    for choice in np.ndindex(2, 2, 2):
        kinds = [*choice, 0, 0]

        def total(x: np.ndarray, kinds: list[int] = kinds) -> float:
            shares = np.exp(x - np.logaddexp.reduce(x))
            return sum(
                smooth_count(block, radius * share, kind)
                for block, share, kind in zip(BLOCKS, shares, kinds, strict=True)
            )

        best = min(best, minimize(total, np.zeros(5), method="BFGS", options={"gtol": 1e-9}).fun)
    assert found == pytest.approx(best, rel=1e-5)


def test_nothing_to_cover_counts_one() -> None:
    radii = np.array([0.0, -3.0])
    assert (class_log_count([], radii) == 0).all()
    assert (class_log_count([Intervals(4, -math.inf), Ball(2, -math.inf)], radii) == 0).all()


@settings(max_examples=25, deadline=None)
@given(st.floats(-2, 2), st.floats(0, 2), st.floats(0, 2))
def test_class_count_grows_with_every_reach(log_radius: float, more: float, much: float) -> None:
    at = np.array([log_radius])
    larger = [
        Ball(40, 0.3 + more, 0.9 + much),
        Ball(3, 2.0 + much, 2.1 + much),
        *BLOCKS[2:4],
        Intervals(1, -4.0 + more),
    ]
    assert class_log_count(larger, at)[0] >= class_log_count(BLOCKS, at)[0] * (1 - 1e-9)


def test_capacity_is_the_optimal_maurey_split() -> None:
    reaches, coordinates = [0.1, -0.7, 2.0], [4, 90, 1]
    weights = [
        math.exp(2 * reach) * math.log(2 * k + 1)
        for reach, k in zip(reaches, coordinates, strict=True)
    ]

    def total(x: np.ndarray) -> float:
        shares = np.exp(x - np.logaddexp.reduce(x))
        return float(np.sum(np.array(weights) / shares**2))

    best = minimize(total, np.zeros(3), method="BFGS", options={"gtol": 1e-10}).fun
    assert 2 * log_maurey_capacity(reaches, coordinates) == pytest.approx(math.log(best), rel=1e-8)


def test_capacity_wants_matching_lists() -> None:
    with pytest.raises(InputError, match="equally long"):
        log_maurey_capacity([0.0], [1, 2])

"""The worked examples of the pages are the sums, the bounds and the steps that they speak of."""

import importlib.util
import math
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import mpmath
import pytest
from coq_gates import gate_step, locality_population, majority_population

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    spec = importlib.util.spec_from_file_location("worked", ROOT / "tools/worked_examples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sums_are_those_of_the_lemmas(examples: ModuleType) -> None:
    mpmath.mp.dps = 30
    D = mpmath.log(1 + mpmath.e ** mpmath.mpf(0.5))  # p_hi + B_q B_u = 0.5
    for row in examples.sums():
        s_A, T = mpmath.mpf(row["s_A"]), row["T"]
        growth = [mpmath.e ** (s_A * D * k) for k in range(T)]
        first = D * sum(growth)
        second = (T - 1) * D / mpmath.e
        third = D**2 * sum(k * factor for k, factor in enumerate(growth))
        if s_A < 0:
            second = min(second, (3 / -s_A + D) / mpmath.e)
            third = min(D**2 * T * (T - 1) / 2, 1 / s_A**2 + D / (mpmath.e * -s_A))
        named = (row["S1 bound"], row["S2 bound"], row["S3 bound"], row["output bound"])
        assert named == pytest.approx(tuple(map(float, (first, second, third, first))), rel=1e-10)


def test_moves_are_those_of_the_lemmas(examples: ModuleType) -> None:
    [here] = [row for row in examples.sums() if (row["s_A"], row["T"]) == (-0.1, 1000)]
    first, second = here["S1 bound"], here["S2 bound"]
    found = {row["parameter"]: row["bound on the move"] for row in examples.sensitivities()}
    assert [found[name] for name in ("w", "W_B", "W_C")] == pytest.approx([first] * 3)
    # p moves by half of its interval, q by its radius: both by one half.
    assert [found["p"], found["q"]] == pytest.approx([(first + second) / 2] * 2)
    # A no further than on the logarithmic scale, half of the interval from log 0.1 to log 2.
    assert 0 < found["A"] <= second * math.log(2 / 0.1) / 2 * (1 + 1e-12)


def test_bounds_are_in_order_and_fall_with_the_examples(examples: ModuleType) -> None:
    rows = list(examples.complexity())
    for row in rows:
        assert row["lower"] < row["sharpened bound"] < row["published bound"]
    for name in ("published bound", "sharpened bound", "lower", "covering bound"):
        assert [row[name] for row in rows] == sorted((row[name] for row in rows), reverse=True)


@pytest.mark.parametrize(("L", "d", "own", "other"), [(6, 4, 3, 1), (7, 3, 3, 2)])
def test_votes_step_as_the_population_does(
    examples: ModuleType, L: int, d: int, own: int, other: int
) -> None:
    population = majority_population(L, d, own, other)
    a = [Fraction(1), Fraction(-1), *[Fraction(0)] * (d - 2)]
    row = examples.votes(L, d, own, other)
    assert row["class step"] == pytest.approx(float(gate_step(L, a, population, 0)))
    assert row["irrelevant step"] == pytest.approx(float(gate_step(L, a, population, 2)))


@pytest.mark.parametrize(("L", "near", "far"), [(6, 1, 3), (6, 2, 3), (7, 2, 5), (9, 3, 5)])
def test_pairs_step_as_the_population_does(
    examples: ModuleType, L: int, near: int, far: int
) -> None:
    population = locality_population(L, 3, near, far)
    a = [Fraction(1, 2), Fraction(-1, 2), Fraction(0)]
    row = examples.pairs(L, 3, near, far)
    step = float(gate_step(L, a, population, 2))
    assert row["step"] == pytest.approx(step)
    assert row["gate"] == ("closes" if step < 0 else "opens")

"""The gated model and its first step as Coq speaks of them are the code's (docs/dynamics.md)."""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from coq_gates import (
    HALF,
    between,
    crossing_excess,
    distance_weight,
    exchanged,
    gate_slope,
    gate_step,
    inside_excess,
    locality_population,
    majority_population,
    number,
    pair_weight,
    placements,
    quadratic_output,
    readout,
    readout_slope,
    readout_step,
    recurrent_output,
    same,
    score,
)
from torch import Tensor

from keelback.dynamics import GatedSSM, Locality, MajorityVoting, conditions
from keelback.dynamics.gradient import hinge_objective

D_MODEL = 5
Word = Sequence[int]


def _one_hot(words: Sequence[Word], dim: int = D_MODEL) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(words), dim).double()


def _model(seed: int, *, dim: int = D_MODEL, width: int = 6, mixing: Any = "identity") -> GatedSSM:
    generator = torch.Generator().manual_seed(seed)
    return GatedSSM(dim, width, mixing=mixing, readout_scale=0.05, generator=generator).double()


def _readouts(model: GatedSSM) -> list[Fraction]:
    """a_k of every feature, exactly as the floats of the model give it."""
    v = [Fraction(x) for x in model.v[:, 0].tolist()]
    W_O = [[Fraction(x) for x in row] for row in model.W_O.tolist()]
    return [readout(len(v), v, W_O, k) for k in range(len(W_O[0]))]


def _step(
    model: GatedSSM, population: Sequence[Word], dim: int, backend: str = "torch"
) -> tuple[Tensor, Tensor]:
    """Minus the gradient of the population loss of both classes in w and W_O, by the code."""
    words = [*population, *map(exchanged, population)]
    signs = torch.tensor([1.0] * len(population) + [-1.0] * len(population))
    dtype = torch.float64 if backend == "torch" else torch.float32
    objective = hinge_objective(
        _one_hot(words, dim)[None].to(dtype),
        signs[None].to(dtype),
        model.v[:, 0].to(dtype),
        backend=backend,
    )
    w, W_O = model.w.detach()[None].to(dtype), model.W_O.detach()[None].to(dtype)
    assert (objective.margins(w, W_O) < 1).all()
    found = objective.gradient(w, W_O)
    return -found.w[0], -found.W_O[0]


@pytest.mark.parametrize("mixing", ["identity", "orthogonal", "gaussian"])
def test_both_forms_are_those_of_the_code(mixing: str) -> None:
    model = _model(1, mixing=mixing)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(1, 6, D_MODEL, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        model.w.copy_(torch.randn(D_MODEL, generator=generator, dtype=torch.float64))
        forms = {form: model.mixed(tokens, form)[0] for form in ("recurrent", "quadratic", "scan")}
        x = tokens[0].tolist()
        g = torch.sigmoid(tokens[0] @ model.w).tolist()
        keys, queries = ((tokens[0] @ W.T).tolist() for W in (model.W_B, model.W_C))
    for proved in (recurrent_output, quadratic_output):
        of_coq = [
            [proved(D_MODEL, g, x, keys, queries, t, i) for i in range(D_MODEL)] for t in range(6)
        ]
        for form, of_code in forms.items():
            torch.testing.assert_close(
                of_code, torch.tensor(of_coq, dtype=torch.float64), rtol=1e-9, atol=1e-12, msg=form
            )


@pytest.mark.parametrize("seed", range(6))
def test_noiseless_scores_and_slopes_are_those_of_the_code(seed: int) -> None:
    """F through the readouts a_k alone; at w = 0 linear in them; its slope in w in closed form."""
    model = _model(seed)
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(0, D_MODEL, (7,), generator=generator).tolist()
    a = _readouts(model)
    [F] = model(_one_hot([features]))
    [slope] = torch.autograd.grad(F, model.w)
    at_zero = score(7, a, [Fraction(1, 2)] * D_MODEL, features)
    assert F.item() == pytest.approx(float(at_zero), abs=1e-14)
    assert at_zero == sum(a[k] * readout_slope(7, features, k) for k in range(D_MODEL))
    for k in range(D_MODEL):
        assert slope[k].item() == pytest.approx(float(gate_slope(7, a, features, k)), abs=1e-14)
    with torch.no_grad():
        model.w.copy_(torch.randn(D_MODEL, generator=generator, dtype=torch.float64))
        gates = torch.sigmoid(model.w).tolist()
        [F] = model(_one_hot([features]))
    assert F.item() == pytest.approx(score(7, [*map(float, a)], gates, features), abs=1e-14)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_the_population_step_is_that_of_the_code(backend: str) -> None:
    population = [*locality_population(6, 4, 2, 4), *majority_population(6, 4, 3, 1)]
    model = _model(3, dim=4)
    a = _readouts(model)
    moved, W_O_moved = _step(model, population, 4, backend)
    close = 1e-12 if backend == "torch" else 1e-6
    for k in range(4):
        assert moved[k].item() == pytest.approx(float(gate_step(6, a, population, k)), abs=close)
    for k in (2, 3):
        mark = lambda x, k=k: same(x, k)  # noqa: E731
        pairs = sum(between(0, mark, X, 6) - between(1, mark, X, 6) for X in population)
        by_pairs = -(a[0] - a[1]) / 24 * pairs / len(population)
        assert by_pairs == gate_step(6, a, population, k)
    # The readout: a unit that is active on feature k moves by v_i times the step of a_k.
    steps = [readout_step(6, population, k) for k in range(4)]
    assert steps[2] == steps[3] == 0
    assert steps[1] == -steps[0]
    for i, k in itertools.product(range(6), range(4)):
        active = model.W_O[i, k].item() > 0
        expected = model.v[i, 0].item() * float(steps[k]) if active else 0.0
        assert W_O_moved[i, k].item() == pytest.approx(expected, abs=close)


def _with_readout(A: Fraction, dim: int, width: int = 4) -> GatedSSM:
    """A model whose readouts are A on o_+, -A on o_- and 0 on every irrelevant feature."""
    model = _model(0, dim=dim, width=width)
    units = width // 2
    weight = float(A) / units / model.v[0, 0].item()
    with torch.no_grad():
        model.W_O.fill_(-1.0)
        model.W_O[:units, 0] = weight
        model.W_O[units:, 1] = weight
        model.W_O[:, 2:] = 0.0
    return model


@pytest.mark.parametrize(("L", "d", "own", "other"), [(5, 4, 2, 1), (6, 3, 3, 0), (6, 4, 3, 2)])
def test_the_majority_step_is_that_of_the_code(L: int, d: int, own: int, other: int) -> None:
    population = majority_population(L, d, own, other)
    A, n, triples = Fraction(1, 5), own + other, L * (L - 1) * (L - 2)
    moved, _ = _step(_with_readout(A, d), population, d)
    inside = 2 * pair_weight(L) * Fraction((n - 1) * (n - 2), triples)
    on_classes = A * (own - other) / (8 * L) * (1 - inside)
    assert on_classes > 0
    a = [A, -A, *[Fraction(0)] * (d - 2)]
    for k in (0, 1):
        assert gate_step(L, a, population, k) == on_classes
        assert moved[k].item() == pytest.approx(float(on_classes), abs=1e-14)
    for k in range(2, d):
        expected = Fraction(sum(number(k, X, L) for X in population), len(population))
        pairs = pair_weight(L) * (own - other) * (n - 1) / triples
        step = -(2 * A) / (4 * L) * pairs * expected
        assert step < 0
        assert gate_step(L, a, population, k) == step
        assert moved[k].item() == pytest.approx(float(step), abs=1e-14)
    near = distance_weight(L) * (n - 1) / (L * (L - 1))
    assert readout_step(L, population, 0) == Fraction(own - other, 2 * L) * (Fraction(1, 2) + near)
    assert readout_step(L, population, 0) > 0


@pytest.mark.parametrize(
    ("L", "d", "near", "far"),
    [(6, 4, 1, 3), (6, 4, 2, 3), (7, 3, 2, 5), (8, 3, 3, 4), (9, 3, 3, 4), (7, 4, 3, 5)],
)
def test_the_locality_step_is_that_of_the_code(L: int, d: int, near: int, far: int) -> None:
    population = locality_population(L, d, near, far)
    model = _model(5, dim=d)
    a = _readouts(model)
    moved, _ = _step(model, population, d)
    inside = [inside_excess(near, far, pair) for pair in placements(L, near, far)]
    step = -(a[0] - a[1]) / (8 * L * (d - 2)) * sum(inside) / len(inside)
    for k in range(2, d):
        assert moved[k].item() == pytest.approx(float(step), abs=1e-13)
    A = Fraction(1, 5)
    moved, _ = _step(_with_readout(A, d), population, d)
    crossing = [crossing_excess(near, far, pair) for pair in placements(L, near, far)]
    on_classes = A / (8 * L) * sum(crossing) / len(crossing)
    assert near > 1 or on_classes >= 0
    for k in (0, 1):
        assert moved[k].item() == pytest.approx(float(on_classes), abs=1e-14)
    assert readout_step(L, population, 0) == (HALF**near - HALF**far) / (4 * L)


def _closing(L: int, near: int, far: int) -> int:
    """The sign that the theorems give: -1 where the gate closes for irrelevant features."""
    if near >= 3:
        return 0 if (near, far) == (3, 4) and L < 9 else -1
    if near == 2:
        return -1 if far >= 4 else 1
    return 1 if far >= 4 or far + 3 <= L else 0


def test_the_signs_under_locality() -> None:
    """Every near, far and L up to 16, and what `conditions` says of them."""
    seen = set()
    for L in range(4, 17):
        for far in range(2, L):
            for near in range(1, far):
                pairs = placements(L, near, far)
                if not pairs:
                    continue
                total = sum(inside_excess(near, far, pair) for pair in pairs)
                sign = _closing(L, near, far)
                assert (total > 0) - (total < 0) == -sign, (L, near, far)
                seen.add((min(near, 4), sign))
                said = conditions(
                    Locality(near=near, far=far, length=L, dim=4),
                    width=50,
                    noise=0.0,
                    samples=None,
                    step_size=1.0,
                    epochs=1,
                )
                [closes] = [one for one in said if one.name == "near"]
                assert closes.holds == (sign < 0 or (near, far) == (3, 4)), (L, near, far)
    assert seen == {(1, 0), (1, 1), (2, -1), (2, 1), (3, -1), (3, 0), (4, -1)}


@pytest.mark.parametrize(("L", "near", "far"), [(7, 1, 3), (8, 2, 3), (9, 3, 5), (6, 2, 5)])
def test_the_populations_are_those_of_the_code(L: int, near: int, far: int) -> None:
    """What the code draws from is what Coq averages over, sequence by sequence."""
    pattern = Locality(near=near, far=far, length=L, dim=3)
    assert {tuple(pair) for pair in pattern.placements.tolist()} == set(placements(L, near, far))
    labels = torch.zeros(4000, dtype=torch.long)
    generator = torch.Generator().manual_seed(L)
    drawn = {tuple(row) for row in pattern.place(labels, generator).tolist()}
    assert drawn == set(locality_population(L, 3, near, far))
    voting = MajorityVoting(relevant=3 / 6, confusing=1 / 6, length=6, dim=4)
    drawn = {tuple(row) for row in voting.place(labels, generator).tolist()}
    assert drawn == set(majority_population(6, 4, 3, 1))
    other_class = voting.place(labels + 1, generator).tolist()
    assert {exchanged(row) for row in other_class} == drawn

"""Output bounds and Lipschitz constants against gradients, on random and on optimised models."""

import math
from collections.abc import Mapping

import pytest
import torch
from bounds_reference import (
    ABSCISSAS,
    climb,
    free_point,
    gradients,
    in_class,
    selective_logit,
    with_constants,
)
from torch import Tensor

from keelback.bounds import ClassConstants, StepSums, log_output_bound, published_terms

RESTARTS = 24


def largest_step(c: ClassConstants) -> float:
    return math.exp(c.log_largest_step)


def sharpened_constants(c: ClassConstants) -> dict[str, float]:
    """The Lipschitz constants of docs/studies/bounds.md, Lemma 5, for c's class."""
    sums = StepSums.of(c.s_A, c.log_largest_step, c.T)
    s1 = math.exp(sums.log_output)
    s2, s3, gate = (
        s1 * math.exp(log) for log in (sums.log_decaying, sums.log_absolute, sums.log_relative)
    )
    cube = c.B_u**3
    gain = c.B_B * c.B_C * cube
    return {
        "w": gain * s1,
        "W_B": c.B_w * c.B_C * cube * s1,
        "W_C": c.B_w * c.B_B * cube * s1,
        "A": c.B_w * gain * s3,
        "log A": c.B_w * gain * s2,
        "mixed A": c.B_w * gain * (s2 + 0.3 * s3),
        "p": c.B_w * gain * (s1 + gate),
        "q": c.B_u * c.B_w * gain * (s1 + gate),
        "token": c.B_w * c.B_B * c.B_C * c.B_u**2 * (3 * s1 + c.B_u * c.B_q * (s1 + gate)),
    }


def published_constants(c: ClassConstants) -> dict[str, float]:
    terms = published_terms(c)
    s_1, s_2, D = math.exp(terms.log_s1), math.exp(terms.log_s2), largest_step(c)
    cube = c.B_u**3
    gain = c.B_B * c.B_C * cube
    gate = c.B_w * gain * (s_1 + max(c.B_A, c.s_A) * D * s_2)
    return {
        "w": gain * D * s_1,
        "W_B": c.B_w * c.B_C * cube * D * s_1,
        "W_C": c.B_w * c.B_B * cube * D * s_1,
        "A": c.B_w * gain * D**2 * s_2,
        "p": gate,
        "q": c.B_u * gate,
    }


def nuclear(x: Tensor) -> Tensor:
    return torch.linalg.svdvals(x).sum(-1)


def dual_norms(free: Mapping[str, Tensor], c: ClassConstants) -> dict[str, Tensor]:
    """Each parameter's gradient in the norm dual to the one its Lipschitz constant uses."""
    theta, u = in_class(c, dict(free))
    theta = {name: value.requires_grad_(True) for name, value in theta.items()}
    u = u.requires_grad_(True)
    grads = gradients(theta, u)
    z = selective_logit(theta, u).sum()
    [token_grads] = torch.autograd.grad(z, [u], create_graph=True)
    by_entry = grads["A"].abs()
    magnitude = theta["A"].abs()
    scale = torch.where(theta["A"] < 0, magnitude, torch.zeros_like(magnitude))
    return {
        "w": grads["w"].norm(dim=-1),
        "W_B": nuclear(grads["W_B"]),
        "W_C": nuclear(grads["W_C"]),
        "A": by_entry.sum((-2, -1)),
        "log A": (by_entry * scale).sum((-2, -1)),
        "mixed A": (by_entry * (scale + 0.3)).sum((-2, -1)),
        "p": grads["p"].abs(),
        "q": grads["q"].norm(dim=-1),
        "token": token_grads.norm(dim=-1).sum(-1),
    }


@pytest.mark.parametrize("s_A", ABSCISSAS)
@pytest.mark.parametrize("T", [1, 2, 7])
def test_random_models_stay_within_every_lipschitz_constant(s_A: float, T: int) -> None:
    c = with_constants(s_A=s_A, T=T)
    found = dual_norms(free_point(c, 2000, seed=T), c)
    for limits in (sharpened_constants(c), published_constants(c)):
        for name, limit in limits.items():
            assert found[name].max().item() <= limit * (1 + 1e-9) + 1e-12, name


@pytest.mark.parametrize("s_A", ABSCISSAS)
@pytest.mark.parametrize("name", ["w", "W_B", "W_C", "A", "log A", "mixed A", "p", "q", "token"])
def test_optimised_models_stay_within_every_lipschitz_constant(name: str, s_A: float) -> None:
    c = with_constants(s_A=s_A)
    free = free_point(c, RESTARTS, seed=3)
    best = climb(lambda x: dual_norms(x, c)[name], free, steps=60).max().item()
    limit = sharpened_constants(c)[name]
    assert best <= limit * (1 + 1e-9)
    assert best >= 0.1 * limit, "the limit should be within a factor ten of what is reached"
    if name in published_constants(c):
        assert best <= published_constants(c)[name] * (1 + 1e-9)


@pytest.mark.parametrize("s_A", ABSCISSAS)
def test_optimised_outputs_stay_within_the_output_bound(s_A: float) -> None:
    c = with_constants(s_A=s_A)

    def output(free: dict[str, Tensor]) -> Tensor:
        return selective_logit(*in_class(c, free)).abs()

    best = climb(output, free_point(c, RESTARTS, seed=5), steps=150).max().item()
    bound = math.exp(log_output_bound(c))
    assert 0.8 * bound <= best <= bound * (1 + 1e-9)
    assert bound <= math.exp(published_terms(c).log_bound) * (1 + 1e-12)


@pytest.mark.parametrize("s_A", [*ABSCISSAS, 2.0])
@pytest.mark.parametrize("T", [1, 2, 30])
def test_a_member_of_the_class_attains_the_output_bound(s_A: float, T: int) -> None:
    c = with_constants(s_A=s_A, T=T)
    first = torch.zeros(1, c.d, dtype=torch.float64)
    first[0, 0] = 1.0
    corner = torch.zeros(1, c.N, c.d, dtype=torch.float64)
    corner[0, 0, 0] = 1.0
    theta = {
        "A": torch.full((1, c.d, c.N), c.s_A, dtype=torch.float64),
        "W_B": c.B_B * corner,
        "W_C": c.B_C * corner,
        "p": torch.tensor([c.p_hi], dtype=torch.float64),
        "q": c.B_q * first,
        "w": c.B_w * first,
    }
    u = (c.B_u * first)[:, None, :].repeat(1, T, 1)
    z = selective_logit(theta, u).item()
    assert math.log(z) == pytest.approx(log_output_bound(c), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("s_A", ABSCISSAS)
def test_finite_differences_agree_with_the_gradients_used_here(s_A: float) -> None:
    c = with_constants(s_A=s_A)
    theta, u = in_class(c, free_point(c, 1, seed=8))
    grads = gradients({name: value.requires_grad_(True) for name, value in theta.items()}, u)
    for name, grad in grads.items():
        direction = torch.randn_like(theta[name])
        shifted = [
            selective_logit({**theta, name: theta[name] + h * direction}, u).item()
            for h in (1e-5, -1e-5)
        ]
        slope = (shifted[0] - shifted[1]) / 2e-5
        assert slope == pytest.approx((grad * direction).sum().item(), rel=1e-6, abs=1e-8)

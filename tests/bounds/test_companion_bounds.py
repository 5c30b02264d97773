"""Output bounds and sensitivities of the companions against their models."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from bounds_reference import SMALL, climb, free_point, in_class
from torch import Tensor

from keelback.bounds import (
    ClassConstants,
    linear_attention_log_rademacher,
    log_step_factor,
    lti_log_rademacher,
    rnn_log_rademacher,
    softmax_attention_log_rademacher,
)

Members = dict[str, Tensor]
Model = Callable[[Members, Tensor], Tensor]
ONE = dataclasses.replace(SMALL, m=1)


def linear_attention(theta: Members, u: Tensor) -> Tensor:
    keys = torch.einsum("rnd,rtd->rtn", theta["W_B"], u)
    query = torch.einsum("rnd,rd->rn", theta["W_C"], u[:, -1])
    return torch.einsum("rtn,rn,rtd,rd->r", keys, query, u, theta["w"])


def softmax_attention(theta: Members, u: Tensor) -> Tensor:
    keys = torch.einsum("rnd,rtd->rtn", theta["W_B"], u)
    query = torch.einsum("rnd,rd->rn", theta["W_C"], u[:, -1])
    weights = torch.softmax(torch.einsum("rtn,rn->rt", keys, query), dim=1)
    return torch.einsum("rt,rtd,rd->r", weights, u, theta["w"])


def lti(theta: Members, u: Tensor) -> Tensor:
    """B and C are the first rows of nothing: vectors in R^N scaled like W_B and W_C."""
    delta = torch.nn.functional.softplus(theta["p"])[:, None, None]
    state = torch.zeros_like(theta["A"])
    for t in range(u.shape[1]):
        pushed = delta * theta["B"][:, None, :] * u[:, t, :, None]
        state = torch.exp(delta * theta["A"]) * state + pushed
    return torch.einsum("rd,rn,rdn->r", theta["w"], theta["C"], state)


def rnn(theta: Members, u: Tensor) -> Tensor:
    state = torch.zeros_like(theta["W_C"][:, :, 0])
    for t in range(u.shape[1]):
        pushed = torch.einsum("rnd,rd->rn", theta["W_B"], u[:, t])
        state = torch.tanh(torch.einsum("rnk,rk->rn", theta["W_h"], state) + pushed)
    return torch.einsum("rd,rnd,rn->r", theta["w"], theta["W_C"], state)


def members(c: ClassConstants, free: Members) -> tuple[Members, Tensor]:
    theta, u = in_class(c, free)
    first_column = theta["W_B"][:, :, 0], theta["W_C"][:, :, 0]
    theta["B"], theta["C"] = (
        norm * x / x.norm(dim=-1, keepdim=True)
        for norm, x in zip((c.B_B, c.B_C), first_column, strict=True)
    )
    square = free["A"][:, : c.N, : c.N]
    scale = math.exp(log_step_factor(c)) / torch.linalg.matrix_norm(square, ord=2)
    theta["W_h"] = square * scale[:, None, None]
    return theta, u


CASES = {
    "linear": (linear_attention, linear_attention_log_rademacher, ("w", "W_B", "W_C")),
    "softmax": (softmax_attention, softmax_attention_log_rademacher, ("w", "W_B", "W_C")),
    "lti": (lti, lti_log_rademacher, ("w", "B", "C", "A", "p")),
    "rnn": (rnn, rnn_log_rademacher, ("w", "W_B", "W_C", "W_h")),
}


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("s_A", [-0.5, 0.0, 0.3])
def test_outputs_stay_below_the_bound_of_one_sample_and_come_near(name: str, s_A: float) -> None:
    """For m = 1 the Rademacher bound is the output bound."""
    model, bound, _ = CASES[name]
    c = dataclasses.replace(ONE, s_A=s_A)
    limit = math.exp(bound(c))
    free = free_point(c, 12, seed=2)
    best = climb(lambda x: model(*members(c, x)).abs(), free, steps=100).max().item()
    assert (0.3 if name == "rnn" else 0.8) * limit <= best <= limit * (1 + 1e-9)


def test_softmax_moves_by_at_most_the_largest_score_change_in_l1() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 5 * torch.randn(5000, 12, generator=generator, dtype=torch.float64)
    change = torch.rand(5000, 12, generator=generator, dtype=torch.float64) * 2 - 1
    moved = torch.softmax(scores + change, 1) - torch.softmax(scores, 1)
    assert (moved.abs().sum(1) <= change.abs().amax(1)).all()


@pytest.mark.parametrize(
    ("name", "parameter", "limit"),
    [
        ("softmax", "W_B", lambda c: c.B_w * c.B_C * c.B_u**3),
        ("softmax", "W_C", lambda c: c.B_w * c.B_B * c.B_u**3),
        ("linear", "W_B", lambda c: c.B_w * c.B_C * c.B_u**3 * c.T),
        ("linear", "W_C", lambda c: c.B_w * c.B_B * c.B_u**3 * c.T),
        ("rnn", "W_B", lambda c: c.B_w * c.B_C * c.B_u * rnn_sum(c)),
        ("rnn", "W_h", lambda c: c.B_w * c.B_C * rnn_state(c) * rnn_sum(c)),
    ],
)
def test_gradients_of_the_matrices_stay_within_their_lipschitz_constants(
    name: str, parameter: str, limit: Callable[[ClassConstants], float]
) -> None:
    model = CASES[name][0]
    free = free_point(ONE, 24, seed=4)

    def dual_norm(x: Members) -> Tensor:
        theta, u = members(ONE, x)
        theta[parameter] = theta[parameter].requires_grad_(True)
        z = model(theta, u).sum()
        [grad] = torch.autograd.grad(z, [theta[parameter]], create_graph=True)
        return torch.linalg.svdvals(grad).sum(-1)

    best = climb(dual_norm, free, steps=60).max().item()
    assert best <= limit(ONE) * (1 + 1e-9)
    assert best >= 0.05 * limit(ONE)


def rnn_sum(c: ClassConstants) -> float:
    return sum(math.exp(k * log_step_factor(c)) for k in range(c.T))


def rnn_state(c: ClassConstants) -> float:
    return min(math.sqrt(c.N), c.B_B * c.B_u * rnn_sum(c))


def test_dependence_on_length_and_on_token_norm() -> None:
    def ratio(name: str, **changes: float) -> float:
        bound = CASES[name][1]
        return math.exp(bound(dataclasses.replace(ONE, **changes)) - bound(ONE))

    assert ratio("linear", T=70) == pytest.approx(10)
    assert ratio("softmax", T=70) == pytest.approx(1)
    assert ratio("linear", B_u=2.6) == pytest.approx(8)
    assert ratio("softmax", B_u=2.6) == pytest.approx(2)
    assert ratio("lti", B_u=2.6) == pytest.approx(2)

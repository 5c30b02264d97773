"""Stacks of layers, complex states and matrices that are not diagonal."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from bounds_reference import SMALL, climb, free_point, in_class
from scipy.linalg import expm
from torch import Tensor

from keelback.bounds import (
    ClassConstants,
    StepSums,
    log_output_bound,
    sharpened_log_rademacher,
    stack_layers,
    stacked_log_rademacher,
)
from keelback.errors import InputError

BOTTOM = dataclasses.replace(SMALL, T=4, B_u=0.8)
TOP = dataclasses.replace(SMALL, T=4, s_A=-0.6, N=3)


def layer_output(theta: dict[str, Tensor], u: Tensor) -> Tensor:
    """All outputs y_t of one layer: (restarts, T, d)."""
    delta = torch.nn.functional.softplus(
        theta["p"][:, None] + torch.einsum("rd,rtd->rt", theta["q"], u)
    )
    state = torch.zeros_like(theta["A"])
    outputs = []
    for t in range(u.shape[1]):
        key = torch.einsum("rnd,rd->rn", theta["W_B"], u[:, t])
        decay = torch.exp(delta[:, t, None, None] * theta["A"])
        state = decay * state + delta[:, t, None, None] * key[:, None, :] * u[:, t, :, None]
        query = torch.einsum("rnd,rd->rn", theta["W_C"], u[:, t])
        outputs.append(torch.einsum("rn,rdn->rd", query, state))
    return torch.stack(outputs, dim=1)


def stacked_logit(bottom: dict[str, Tensor], top: dict[str, Tensor], u: Tensor) -> Tensor:
    y = layer_output(top, layer_output(bottom, u))
    return (top["w"] * y[:, -1]).sum(-1)


def test_a_stack_of_one_is_the_class_itself() -> None:
    assert stacked_log_rademacher([SMALL]) == pytest.approx(sharpened_log_rademacher(SMALL))


def test_stacked_outputs_and_bottom_gradients_stay_within_their_bounds() -> None:
    met = stack_layers([BOTTOM, TOP])
    limit = math.exp(log_output_bound(met[1]))
    bottom_free, top_free = free_point(BOTTOM, 24, seed=1), free_point(TOP, 24, seed=2)
    free = {f"bottom.{name}": x for name, x in bottom_free.items()}
    free |= {f"top.{name}": x for name, x in top_free.items() if name != "u"}

    def members(x: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        bottom, u = in_class(BOTTOM, {name: x[f"bottom.{name}"] for name in bottom_free})
        rest = {name: x[f"top.{name}"] for name in top_free if name != "u"}
        return bottom, in_class(TOP, {**rest, "u": top_free["u"]})[0], u

    def output(x: dict[str, Tensor]) -> Tensor:
        return stacked_logit(*members(x)).abs()

    def bottom_gradient(x: dict[str, Tensor]) -> Tensor:
        bottom, top, u = members(x)
        bottom["W_B"].requires_grad_(True)
        z = stacked_logit(bottom, top, u).sum()
        [grad] = torch.autograd.grad(z, [bottom["W_B"]], create_graph=True)
        return torch.linalg.svdvals(grad).sum(-1) * BOTTOM.B_B

    best = climb(output, free, steps=100).max().item()
    assert 0.3 * limit <= best <= limit * (1 + 1e-9)
    sums = StepSums.of(met[1].s_A, met[1].log_largest_step, TOP.T)
    gate = met[1].B_u * met[1].B_q * (1 + math.exp(sums.log_relative))
    assert climb(bottom_gradient, free, steps=60).max().item() <= limit * (3 + gate) * (1 + 1e-9)


def test_deeper_stacks_cost_more() -> None:
    small = dataclasses.replace(SMALL, B_u=0.3, m=10**5)
    relative = [
        stacked_log_rademacher([small] * depth)
        - log_output_bound(stack_layers([small] * depth)[-1])
        for depth in (1, 2, 3)
    ]
    assert relative[0] < relative[1] < relative[2] < 0


def test_bad_stacks_are_refused() -> None:
    with pytest.raises(InputError, match="at least one layer"):
        stacked_log_rademacher([])
    with pytest.raises(InputError, match="agree in T, m and d"):
        stack_layers([SMALL, dataclasses.replace(SMALL, T=8)])
    with pytest.raises(InputError, match="may meet tokens of norm"):
        stack_layers([dataclasses.replace(SMALL, B_u=1e6)] * 4)


def largest_transported(matrices: list[np.ndarray], delta: np.ndarray) -> float:
    """Largest sum_t delta_t ||exp(tau_t A)||_2 over the matrices."""
    tau = np.concatenate([np.cumsum(delta[::-1])[::-1][1:], [0.0]])
    return max(
        sum(step * np.linalg.norm(expm(t * A), 2) for step, t in zip(delta, tau, strict=True))
        for A in matrices
    )


def step_limits(c: ClassConstants) -> tuple[float, float]:
    sums = StepSums.of(c.s_A, c.log_largest_step, c.T)
    s1 = math.exp(sums.log_output)
    return s1, s1 * math.exp(sums.log_absolute)


def test_full_matrices_with_their_numerical_abscissa_obey_the_output_sum() -> None:
    generator = np.random.default_rng(0)
    matrices = []
    for _ in range(20):
        A = 2 * generator.normal(size=(3, 3))
        shift = np.linalg.eigvalsh((A + A.T) / 2)[-1] - SMALL.s_A
        matrices.append(A - shift * np.eye(3))
    delta = math.exp(SMALL.log_largest_step) * generator.random(SMALL.T)
    assert largest_transported(matrices, delta) <= step_limits(SMALL)[0]


def test_full_matrices_move_by_at_most_the_absolute_sum() -> None:
    generator = np.random.default_rng(1)
    delta = math.exp(SMALL.log_largest_step) * generator.random(SMALL.T)
    tau = np.concatenate([np.cumsum(delta[::-1])[::-1][1:], [0.0]])
    for _ in range(20):
        pair = []
        for _ in range(2):
            A = generator.normal(size=(3, 3))
            shift = np.linalg.eigvalsh((A + A.T) / 2)[-1] - SMALL.s_A
            pair.append(A - shift * np.eye(3))
        moved = sum(
            step * np.linalg.norm(expm(t * pair[0]) - expm(t * pair[1]), 2)
            for step, t in zip(delta, tau, strict=True)
        )
        assert moved <= step_limits(SMALL)[1] * np.linalg.norm(pair[0] - pair[1], 2) * (1 + 1e-9)


def test_the_spectral_abscissa_alone_bounds_nothing_for_full_matrices() -> None:
    delta = np.full(SMALL.T, 0.7)
    jordan = [np.array([[SMALL.s_A, K], [0.0, SMALL.s_A]]) for K in (1.0, 1e3)]
    assert largest_transported(jordan[1:], delta) > 100 * step_limits(SMALL)[0]
    assert largest_transported(jordan[1:], delta) > 100 * largest_transported(jordan[:1], delta)


@pytest.mark.parametrize("sector", [0.0, 1.0, 5.0])
def test_complex_states_in_a_sector_cost_its_opening(sector: float) -> None:
    """|a| <= sqrt(1 + kappa^2) |Re a|, so S2 grows by that factor and S1 not at all."""
    generator = np.random.default_rng(2)
    s_A = -0.3
    for _ in range(200):
        delta = 1.3 * generator.random(15)
        tau = np.concatenate([np.cumsum(delta[::-1])[::-1][1:], [0.0]])
        real = s_A * np.exp(3 * generator.random(15))
        a = real * (1 + 1j * sector * generator.uniform(-1, 1, 15))
        sums = StepSums.of(s_A, math.log(1.3), 15)
        s1 = math.exp(sums.log_output)
        assert np.sum(delta * np.abs(np.exp(a * tau))) <= s1 * (1 + 1e-12)
        opening = math.sqrt(1 + sector**2)
        moved = np.sum(delta * np.abs(a) * tau * np.abs(np.exp(a * tau)))
        assert moved <= opening * s1 * math.exp(sums.log_decaying)


@pytest.mark.parametrize("omega", [10.0, 100.0, 300.0, 1e4])
def test_a_half_plane_does_not_bound_the_gate_term(omega: float) -> None:
    """Proposition 10: the output stays below 2 delta, its derivative in p grows with omega."""
    s, delta = 1.0, 1.0
    A = -s * torch.eye(2, dtype=torch.float64)
    A = A + omega * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    assert torch.linalg.eigvalsh((A + A.T) / 2).max().item() == pytest.approx(-s)
    b = torch.tensor([1.0, 0.0], dtype=torch.float64)
    c = A @ torch.linalg.matrix_exp(A * delta) @ b
    c = c / c.norm()
    p = torch.tensor(math.log(math.expm1(delta)), dtype=torch.float64, requires_grad=True)

    def output() -> torch.Tensor:
        step = torch.nn.functional.softplus(p)
        state = torch.zeros(2, dtype=torch.float64)
        for _ in range(2):
            state = torch.linalg.matrix_exp(A * step) @ state + step * b
        return c @ state

    z = output()
    [slope] = torch.autograd.grad(z, p)
    assert abs(z.item()) <= 2 * delta
    least = -math.expm1(-delta) * (delta * math.hypot(s, omega) * math.exp(-s * delta) - 2)
    assert slope.item() >= least * (1 - 1e-9)
    assert slope.item() <= 0.24 * omega + 2


@pytest.mark.parametrize("seed", range(20))
def test_eigenvectors_of_normal_blocks_move_the_exponential_by_twice_their_move(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def hermitian(scale: float) -> torch.Tensor:
        x = torch.randn(4, 4, dtype=torch.complex128, generator=generator)
        x = (x + x.conj().T) / 2
        return scale * x / torch.linalg.matrix_norm(x, 2)

    s_A, tau = -0.3, 2.0
    imaginary = torch.randn(4, dtype=torch.float64, generator=generator) * 50
    decay = torch.diag(torch.exp(torch.complex(torch.full_like(imaginary, s_A), imaginary) * tau))
    H = hermitian(3.0)
    for epsilon in (1e-6, 1e-2, 0.5):
        moved = H + hermitian(epsilon)
        exponentials = [
            U @ decay @ U.conj().T for U in (torch.linalg.matrix_exp(1j * x) for x in (H, moved))
        ]
        change = torch.linalg.matrix_norm(exponentials[1] - exponentials[0], 2).item()
        assert change <= 2 * epsilon * math.exp(s_A * tau) * (1 + 1e-6)

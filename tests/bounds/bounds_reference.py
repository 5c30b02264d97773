"""A naive float64 selective SSM, batched over restarts, and points of a class to try it on."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from keelback.bounds import ClassConstants

SMALL = ClassConstants(
    B_u=1.3, s_A=-0.2, B_A=3.0, B_B=1.5, M_B=2.4, B_C=0.8, M_C=1.5, B_q=0.9, M_q=1.2,
    B_w=1.1, M_w=1.5, p_lo=-1.0, p_hi=0.5, T=7, m=50, d=2, N=2,
)  # fmt: skip
ABSCISSAS = (-1.5, -0.05, 0.0, 0.3)


def with_constants(**changes: float) -> ClassConstants:
    return replace(SMALL, **changes)


def selective_logit(theta: dict[str, Tensor], u: Tensor) -> Tensor:
    """z of spec and paper, token by token; theta and u carry a leading axis of restarts."""
    delta = torch.nn.functional.softplus(
        theta["p"][:, None] + torch.einsum("rd,rtd->rt", theta["q"], u)
    )
    state = torch.zeros_like(theta["A"])
    for t in range(u.shape[1]):
        key = torch.einsum("rnd,rd->rn", theta["W_B"], u[:, t])
        decay = torch.exp(delta[:, t, None, None] * theta["A"])
        state = decay * state + delta[:, t, None, None] * key[:, None, :] * u[:, t, :, None]
    query = torch.einsum("rnd,rd->rn", theta["W_C"], u[:, -1])
    return torch.einsum("rd,rn,rdn->r", theta["w"], query, state)


def free_point(c: ClassConstants, restarts: int, seed: int) -> dict[str, Tensor]:
    """Unconstrained coordinates, from which `in_class` makes members and sequences."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(restarts, *shape, generator=generator, dtype=torch.float64)

    return {
        "u": draw(c.T, c.d), "A": 2 * draw(c.d, c.N), "W_B": draw(c.N, c.d),
        "W_C": draw(c.N, c.d), "p": 2 * draw(), "q": draw(c.d), "w": draw(c.d),
    }  # fmt: skip


def in_class(c: ClassConstants, free: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """A member of the class and a sequence: norms at their limits, A and p in their intervals."""

    def unit(x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    def spectral_unit(x: Tensor) -> Tensor:
        return x / torch.linalg.matrix_norm(x, ord=2)[:, None, None]

    theta = {
        "A": c.s_A - (c.B_A + c.s_A) * torch.sigmoid(free["A"]) ** 2,
        "W_B": c.B_B * spectral_unit(free["W_B"]),
        "W_C": c.B_C * spectral_unit(free["W_C"]),
        "p": c.p_lo + (c.p_hi - c.p_lo) * torch.sigmoid(free["p"]),
        "q": c.B_q * unit(free["q"]),
        "w": c.B_w * unit(free["w"]),
    }
    return theta, c.B_u * unit(free["u"])


def gradients(theta: dict[str, Tensor], u: Tensor) -> dict[str, Tensor]:
    """d z / d theta, differentiable once more."""
    theta = {name: value.clone().requires_grad_(True) if value.is_leaf else value
             for name, value in theta.items()}  # fmt: skip
    z = selective_logit(theta, u).sum()
    names = list(theta)
    grads = torch.autograd.grad(z, [theta[n] for n in names], create_graph=True)
    return dict(zip(names, grads, strict=True))


def climb(
    objective: Callable[[dict[str, Tensor]], Tensor], free: dict[str, Tensor], steps: int
) -> Tensor:
    """Maximise each restart's objective by Adam; the best value of each seen on the way."""
    free = {name: value.clone().requires_grad_(True) for name, value in free.items()}
    optimiser = torch.optim.Adam(free.values(), lr=0.1)
    best = torch.full_like(next(iter(free.values())).flatten(1)[:, 0], -torch.inf)
    for _ in range(steps):
        value = objective(free)
        best = torch.maximum(best, value.detach())
        optimiser.zero_grad()
        (-value.sum()).backward()
        optimiser.step()
    return best

"""The bounds of the full Mamba block against the block itself: random, optimised and extreme."""

import dataclasses
import math

import pytest
import torch
from bounds_reference import SMALL
from torch import Tensor
from torch.nn.functional import silu

from keelback.bounds import (
    Ball,
    ClassConstants,
    MambaBlockConstants,
    log_mamba_output_bound,
    log_output_bound,
    mamba_blocks,
    mamba_log_rademacher,
    sharpened_log_rademacher,
)
from keelback.errors import InputError
from keelback.models import MambaClassifierConfig
from keelback.models.mamba_stack import MambaBlock

SMALL_BLOCK = MambaBlockConstants(
    selective=dataclasses.replace(SMALL, m=10**6), B_x=1.0, d_model=3, B_in=1.2, B_g=0.7,
    B_conv=1.1, d_conv=4, B_bias=0.2,
    B_D=1.0,
)  # fmt: skip
T = 6


def random_block(seed: int) -> tuple[MambaBlock, Tensor, Tensor]:
    """A block with weights of all sizes, tokens, and the head that reads the last position."""
    generator = torch.Generator().manual_seed(seed)
    config = MambaClassifierConfig(vocab_size=2, d_model=3, n_layers=1, d_state=2)
    block = MambaBlock(config, generator).double()
    for parameter in block.parameters():
        size = torch.exp(torch.randn((), generator=generator))
        parameter.data = size * torch.randn(
            parameter.shape, generator=generator, dtype=torch.float64
        )
    tokens = torch.randn(1, T, config.d_model, generator=generator, dtype=torch.float64)
    return block, tokens, torch.randn(config.d_model, generator=generator, dtype=torch.float64)


def readout(block: MambaBlock, tokens: Tensor, head: Tensor) -> Tensor:
    return block(tokens)[0, -1] @ head


def pieces(block: MambaBlock, head: Tensor) -> dict[str, Tensor]:
    """The block's parameters as the class has them: W_in, W_g, W_B, W_C, q, w and the rest."""
    W_in, W_g = block.W_in.detach().chunk(2)
    low_rank, W_B, W_C = torch.split(
        block.W_x.detach(), [block.dt_rank, block.d_state, block.d_state]
    )
    return {
        "w": block.W_out.detach().mT @ head, "W_g": W_g, "D": block.D.detach(), "W_in": W_in,
        "kappa": block.conv_weight.detach(), "beta": block.conv_bias.detach(), "W_B": W_B,
        "W_C": W_C, "A": block.A.detach(), "p": block.delta_bias.detach(),
        "q": block.W_delta.detach() @ low_rank,
    }  # fmt: skip


def measured(theta: dict[str, Tensor], x: Tensor) -> MambaBlockConstants:
    """The smallest class that holds a block and its tokens."""

    def spectral(name: str) -> float:
        return torch.linalg.matrix_norm(theta[name], ord=2).item()

    d, d_conv = theta["kappa"].shape
    selective = ClassConstants(
        B_u=0.0, s_A=theta["A"].max().item(), B_A=-theta["A"].min().item(),
        B_B=spectral("W_B"), M_B=theta["W_B"].abs().sum().item(),
        B_C=spectral("W_C"), M_C=theta["W_C"].abs().sum().item(),
        B_q=theta["q"].norm(dim=1).max().item(), M_q=theta["q"].abs().sum(1).max().item(),
        B_w=theta["w"].norm().item(), M_w=theta["w"].abs().sum().item(),
        p_lo=theta["p"].min().item(), p_hi=theta["p"].max().item(),
        T=len(x), m=100, d=d, N=theta["A"].shape[1],
    )  # fmt: skip
    return MambaBlockConstants(
        selective=selective, B_x=x.norm(dim=-1).max().item(), d_model=x.shape[-1],
        B_in=spectral("W_in"), B_g=spectral("W_g"),
        B_conv=theta["kappa"].abs().amax(0).sum().item(), d_conv=d_conv,
        B_bias=theta["beta"].norm().item(), B_D=theta["D"].abs().max().item(),
    )  # fmt: skip


def reference_readout(theta: dict[str, Tensor], x: Tensor) -> Tensor:
    """z of Corollary 9, token by token; the last tap meets the present token."""
    content = x @ theta["W_in"].mT
    taps = theta["kappa"].shape[1]
    padded = torch.cat([content.new_zeros(taps - 1, content.shape[1]), content])
    state = torch.zeros_like(theta["A"])
    for t in range(len(x)):
        v = silu((theta["kappa"].mT * padded[t : t + taps]).sum(0) + theta["beta"])
        delta = torch.nn.functional.softplus(theta["p"] + theta["q"] @ v)
        entering = (delta * v)[:, None] * (theta["W_B"] @ v)
        state = torch.exp(delta[:, None] * theta["A"]) * state + entering
    h = state @ (theta["W_C"] @ v) + theta["D"] * v
    return theta["w"] @ (h * silu(theta["W_g"] @ x[-1]))


@pytest.mark.parametrize("seed", range(3))
def test_the_model_of_the_corollary_is_the_mamba_block(seed: int) -> None:
    block, tokens, head = random_block(seed)
    expected = reference_readout(pieces(block, head), tokens[0])
    assert readout(block, tokens, head).item() == pytest.approx(expected.item(), rel=1e-9)


def dual_norms(theta: dict[str, Tensor], x: Tensor) -> dict[str, float]:
    """Each parameter's gradient in the norm dual to the one in which it is covered."""
    free = {name: value.clone().requires_grad_(True) for name, value in theta.items()}
    x = x.clone().requires_grad_(True)
    names = [*free, "x"]
    found = torch.autograd.grad(reference_readout(free, x), [*free.values(), x])
    grads = dict(zip(names, found, strict=True))

    def nuclear(name: str) -> float:
        return torch.linalg.svdvals(grads[name]).sum().item()

    return {
        "w": grads["w"].norm().item(), "W_g": nuclear("W_g"),
        "D": grads["D"].abs().sum().item(), "W_in": nuclear("W_in"),
        "kappa": grads["kappa"].abs().sum(0).max().item(), "beta": grads["beta"].norm().item(),
        "W_B": nuclear("W_B"), "W_C": nuclear("W_C"),
        "log A": (grads["A"] * theta["A"]).abs().sum().item(),
        "p": grads["p"].abs().sum().item(), "q": grads["q"].norm(dim=1).sum().item(),
        "x": grads["x"].norm(dim=-1).sum().item(),
    }  # fmt: skip


def reaches(c: MambaBlockConstants) -> dict[str, float]:
    """What each dual norm times the radius of its parameter must stay below."""
    bound = math.exp(log_mamba_output_bound(c))
    names = ("w", "W_g", "D", "W_in", "kappa", "beta", "W_B", "W_C", "A", "p", "q", "x")
    blocks = mamba_blocks(c, vocab_size=1)
    return {n: bound * math.exp(b.log_reach) for n, b in zip(names, blocks, strict=True)}


def check(theta: dict[str, Tensor], x: Tensor) -> dict[str, float]:
    """Assert every statement of Corollary 9 for a block; how near each is to its limit."""
    c = measured(theta, x)
    s = c.selective
    radii = {
        "w": s.B_w, "W_g": c.B_g, "D": c.B_D, "W_in": c.B_in, "kappa": c.B_conv, "beta": c.B_bias,
        "W_B": s.B_B, "W_C": s.B_C, "p": (s.p_hi - s.p_lo) / 2, "q": s.B_q, "x": c.B_x,
    }  # fmt: skip
    limits, found = reaches(c), dual_norms(theta, x)
    near = {name: found[name] * radius / limits[name] for name, radius in radii.items()}
    half_length = math.log(s.B_A / -s.s_A) / 2
    near["log A"] = found["log A"] * half_length / limits["A"]
    near["z"] = abs(reference_readout(theta, x).item()) / math.exp(log_mamba_output_bound(c))
    assert max(near.values()) <= 1 + 1e-9, near
    return near


def test_random_blocks_stay_within_every_limit() -> None:
    for seed in range(40):
        block, tokens, head = random_block(seed)
        check(pieces(block, head), tokens[0])


@pytest.mark.parametrize("seed", range(3))
def test_optimised_blocks_stay_within_every_limit(seed: int) -> None:
    """Ascend |z| over a product of norms, which the bound resembles, from weights of all sizes."""
    block, tokens, head = random_block(seed)
    theta = {**pieces(block, head), "x": tokens[0]}
    theta["A"] = torch.log(-theta["A"])
    free = {name: value.clone().requires_grad_(True) for name, value in theta.items()}
    optimiser = torch.optim.Adam(free.values(), lr=0.05)

    def member() -> tuple[dict[str, Tensor], Tensor]:
        values = {**free, "A": -free["A"].exp()}
        return values, values.pop("x")

    nearness = []
    for step in range(41):
        values, x = member()
        if step % 10 == 0:
            detached = {name: value.detach() for name, value in values.items()}
            nearness.append(check(detached, x.detach())["z"])
        norms = sum(free[n].norm().log() for n in ("w", "W_g", "W_in", "W_B", "W_C", "x"))
        optimiser.zero_grad()
        (norms - reference_readout(values, x).abs().log()).backward()
        optimiser.step()
    assert nearness[-1] > nearness[0]


def test_a_block_in_one_direction_comes_near_the_output_bound() -> None:
    """One channel, one state, one tap, and activations so large that silu is the identity."""
    block, tokens, head = random_block(0)
    theta = {name: torch.zeros_like(value) for name, value in pieces(block, head).items()}
    for name in ("W_in", "W_g", "W_B", "W_C", "w", "D"):
        theta[name].view(-1)[0] = 1.0
    theta["kappa"][0, -1] = 1.0
    theta["A"][:] = -0.5
    theta["p"][:] = 0.3
    x = torch.zeros_like(tokens[0])
    x[:, 0] = 40.0
    z = reference_readout(theta, x).item()
    assert math.log(z) == pytest.approx(log_mamba_output_bound(measured(theta, x)), rel=1e-9)


def test_the_slope_of_silu_is_below_its_bound() -> None:
    from keelback.bounds._mamba_block import SILU_SLOPE

    x = torch.linspace(-30, 30, 600_001, dtype=torch.float64, requires_grad=True)
    [slope] = torch.autograd.grad(silu(x).sum(), [x])
    assert 1.09 < slope.abs().max().item() <= SILU_SLOPE
    assert bool((silu(x).abs() <= x.abs()).all())


def test_complexity_lies_below_the_output_bound_and_settles_with_length() -> None:
    values = []
    for length in (10, 10**4, 10**9):
        longer = dataclasses.replace(SMALL_BLOCK.selective, T=length)
        block = dataclasses.replace(SMALL_BLOCK, selective=longer)
        values.append(mamba_log_rademacher(block))
        assert values[-1] < log_mamba_output_bound(block)
    assert values[2] == pytest.approx(values[1], abs=1e-6)


@pytest.mark.parametrize("name", ["B_x", "B_in", "B_g", "B_conv", "B_bias", "B_D"])
def test_complexity_rises_with_every_constant(name: str) -> None:
    larger = dataclasses.replace(SMALL_BLOCK, **{name: 1.7 * getattr(SMALL_BLOCK, name)})
    assert mamba_log_rademacher(larger) > mamba_log_rademacher(SMALL_BLOCK)
    assert log_mamba_output_bound(larger) > log_mamba_output_bound(SMALL_BLOCK)


def test_a_trained_embedding_costs_more() -> None:
    assert mamba_log_rademacher(SMALL_BLOCK, vocab_size=50) > mamba_log_rademacher(SMALL_BLOCK)
    with pytest.raises(InputError, match="vocab_size"):
        mamba_log_rademacher(SMALL_BLOCK, vocab_size=-1)


def test_the_plain_selective_class_is_not_dearer_than_the_block_around_it() -> None:
    channel = SMALL_BLOCK.channel
    plain = sharpened_log_rademacher(channel) - log_output_bound(channel)
    around = mamba_log_rademacher(SMALL_BLOCK) - log_mamba_output_bound(SMALL_BLOCK)
    assert plain < around


def test_parts_may_be_absent() -> None:
    assert mamba_log_rademacher(dataclasses.replace(SMALL_BLOCK, B_g=0.0)) == -math.inf
    silent = dataclasses.replace(SMALL_BLOCK.selective, B_C=0.0, M_C=0.0)
    skip_only = dataclasses.replace(SMALL_BLOCK, selective=silent, B_bias=0.0)
    assert all(isinstance(b, Ball) or b.coordinates == SMALL.d for b in mamba_blocks(skip_only))
    assert math.isfinite(mamba_log_rademacher(skip_only))
    assert math.isfinite(mamba_log_rademacher(dataclasses.replace(SMALL_BLOCK, B_D=0.0)))


@pytest.mark.parametrize(
    ("name", "value"), [("B_x", -1.0), ("B_conv", math.nan), ("B_D", math.inf), ("d_conv", 0)]
)
def test_ill_valued_constants_are_named(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^{name} = "):
        dataclasses.replace(SMALL_BLOCK, **{name: value})

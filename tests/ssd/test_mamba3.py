"""Mamba-3's scan against its recurrence in complex numbers, step by step in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from keelback.errors import InputError
from keelback.ssd import Mamba3States, mamba3, mamba3_step, ssd
from operator_gradients import near

STATES = ("states", "last_x", "last_B")


def operands(
    batch: int = 2, length: int = 40, heads: int = 4, groups: int = 2, rank: int = 2,
    head_dim: int = 3, state: int = 6, pairs: int | None = 2, *, initial: bool = True,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """All operands in float64, by their names; states under names of their own."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    rows = (batch, length)
    found = {
        "x": normal(*rows, heads, rank, head_dim),
        "dt": normal(*rows, heads).abs(),
        "A": -normal(*rows, heads).abs(),
        "B": normal(*rows, groups, rank, state),
        "C": normal(*rows, groups, rank, state),
        "share": torch.sigmoid(normal(*rows, heads)),
    }
    if pairs is not None:
        found["angles"] = 2 * normal(*rows, heads, pairs)
    if initial:
        shapes = (heads, head_dim, state), (heads, rank, head_dim), (groups, rank, state)
        for name, shape in zip(STATES, shapes, strict=True):
            found[name] = normal(batch, *shape)
    return found


def ours(given: dict[str, Any], **options: Any) -> tuple[Tensor, ...]:
    """`mamba3`, with its results in a row."""
    leaves = dict(given)
    states = [leaves.pop(name, None) for name in STATES]
    before = None if states[0] is None else Mamba3States(*states)
    y, last = mamba3(**leaves, initial_states=before, **options)
    return (y, *last)


def by_definition(given: dict[str, Any], reset: Tensor | None = None) -> tuple[Tensor, ...]:
    """The recurrence of the paper in complex numbers: a pair of states is one of them.

    h_t = alpha_t h_{t-1} + beta_t B_{t-1} x_{t-1} + gamma_t B_t x_t, where the complex
    alpha_t = exp(dt_t A_t + i angle_t), beta_t = (1 - share_t) dt_t alpha_t and
    gamma_t = share_t dt_t; the output is the real part of conj(C_t) h_t.
    """
    x, dt, A, B, C, share = (given[name] for name in ("x", "dt", "A", "B", "C", "share"))
    batch, length, heads, _, head_dim = x.shape
    half = B.shape[-1] // 2
    angles = given.get("angles", dt.new_zeros(batch, length, heads, 0))
    still = dt.new_zeros(batch, length, heads, half - angles.shape[-1])
    turns = torch.complex(dt.unsqueeze(-1) * A.unsqueeze(-1), torch.cat([angles, still], -1))

    def paired(maps: Tensor) -> Tensor:
        of_heads = maps.repeat_interleave(heads // maps.shape[-3], dim=-3)
        return torch.view_as_complex(of_heads.unflatten(-1, (half, 2)).contiguous())

    B_pairs, C_pairs = paired(B), paired(C)
    if "states" in given:
        h = torch.view_as_complex(given["states"].unflatten(-1, (half, 2)).contiguous())
        last_x, last_B = given["last_x"], paired(given["last_B"])
    else:
        h = torch.zeros(batch, heads, head_dim, half, dtype=torch.complex128)
        last_x, last_B = torch.zeros_like(x[:, 0]), torch.zeros_like(B_pairs[:, 0])
    outputs = []
    for t in range(length):
        u, last_u = (
            torch.einsum("bhrp,bhrn->bhpn", one.to(h.dtype), maps)
            for one, maps in ((x[:, t], B_pairs[:, t]), (last_x, last_B))
        )
        if reset is not None:
            gone = reset[:, t, None, None, None]
            h, last_u = (torch.where(gone, torch.zeros_like(one), one) for one in (h, last_u))
        alpha = torch.exp(turns[:, t]).unsqueeze(-2)
        gamma, beta = share[:, t] * dt[:, t], (1 - share[:, t]) * dt[:, t]
        h = alpha * (h + beta[..., None, None] * last_u) + gamma[..., None, None] * u
        outputs.append(torch.einsum("bhrn,bhpn->bhrp", C_pairs[:, t].conj(), h).real)
        last_x, last_B = x[:, t], B_pairs[:, t]
    states = torch.view_as_real(h).flatten(-2)
    return torch.stack(outputs, 1), states, x[:, -1], B[:, -1]


def with_gradients(function: Any, given: dict[str, Any], **options: Any) -> list[Tensor]:
    """All results, and the gradients of all operands from all of them."""
    leaves = {name: one.detach().clone().requires_grad_() for name, one in given.items()}
    found = function(leaves, **options)
    loss = torch.zeros((), dtype=torch.float64)
    for one in found:
        weights = torch.linspace(-1, 2, one.numel(), dtype=torch.float64).view(one.shape)
        loss = loss + (one.double() * weights).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return [*(one.detach() for one in found), *gradients]


@settings(max_examples=15, deadline=None)
@drawn(
    batch=st.integers(1, 2), length=st.integers(1, 80), per_group=st.integers(1, 2),
    groups=st.integers(1, 2), rank=st.integers(1, 3), head_dim=st.integers(1, 4),
    half=st.integers(1, 4), turning=st.integers(-1, 4), initial=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_results_and_gradients_are_those_of_the_recurrence(
    batch: int, length: int, per_group: int, groups: int, rank: int, head_dim: int, half: int,
    turning: int, initial: bool, seed: int,
) -> None:  # fmt: skip
    pairs = None if turning < 0 else min(turning, half)
    sizes = (batch, length, per_group * groups, groups, rank, head_dim, 2 * half, pairs)
    given = operands(*sizes, initial=initial, seed=seed)
    near(with_gradients(ours, given), with_gradients(by_definition, given), 1e-10)


@pytest.mark.parametrize("rank", [1, 3])
def test_sequences_that_are_packed_are_kept_apart(rank: int) -> None:
    given = operands(rank=rank)
    reset = torch.rand(2, 40, generator=torch.Generator().manual_seed(0)) < 0.15
    near([*ours(given, reset=reset)], [*by_definition(given, reset)], 1e-10)
    reset[:, 0] = False
    numbered = ours(given, seq_idx=reset.cumsum(1))
    near([*numbered], [*ours(given, reset=reset)], 1e-12)


def test_float32_is_near() -> None:
    given = operands(2, 150, rank=1, head_dim=16, state=32, pairs=16)
    expected = with_gradients(by_definition, given)
    narrow = {name: one.float() for name, one in given.items()}
    near(with_gradients(ours, narrow), expected, 5e-5)


def test_with_all_of_the_present_and_no_turns_it_is_the_scan_of_mamba2() -> None:
    given = operands(rank=1, pairs=None, initial=False)
    given["share"] = torch.ones_like(given["share"])
    given["A"] = given["A"][:1, :1].expand(2, 40, 4)
    x, B, C = (given[name].squeeze(3) for name in ("x", "B", "C"))
    expected = ssd(x, given["dt"], given["A"][0, 0], B, C)
    torch.testing.assert_close(ours(given)[0].squeeze(3), expected, rtol=1e-10, atol=1e-10)


def test_a_sequence_in_parts_and_in_steps_is_the_whole() -> None:
    given = operands(length=40)
    whole = ours(given)
    names = ("x", "dt", "A", "B", "C", "share", "angles")
    last, found = Mamba3States(*(given[name] for name in STATES)), []
    for start, stop in ((0, 20), (20, 20), (20, 32)):
        now = [given[name][:, start:stop] for name in names]
        y, last = mamba3(*now, initial_states=last)
        found.append(y)
    for t in range(32, 40):
        y, last = mamba3_step(last, *(given[name][:, t] for name in names))
        found.append(y.unsqueeze(1))
    near([torch.cat(found, 1), *last], [*whole], 1e-10)


def test_gradients_of_a_step() -> None:
    given = operands(length=1)

    def step(leaves: dict[str, Any]) -> tuple[Tensor, ...]:
        now = {name: one.squeeze(1) for name, one in leaves.items() if name not in STATES}
        y, last = mamba3_step(Mamba3States(*(leaves[name] for name in STATES)), **now)
        return (y.unsqueeze(1), *last)

    near(with_gradients(step, given), with_gradients(by_definition, given), 1e-10)


def test_under_compile_and_many_at_once() -> None:
    given = operands(initial=False)
    compiled = torch.compile(mamba3, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**given)[0], mamba3(**given)[0])
    x = given.pop("x")
    many = torch.func.vmap(lambda x: mamba3(x, **given)[0])(torch.stack([x, 2 * x]))
    torch.testing.assert_close(many[1], mamba3(2 * x, **given)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": torch.zeros(4)}, r"A has shape \(4,\); it should be \(2, 40, 4\)"),
        ({"B": torch.zeros(2, 40, 2, 6)}, r"B has shape .* \(2, 40, groups, 2, state\)"),
        ({"angles": torch.zeros(2, 40, 4, 4)}, "angles has 4 pairs of states, and B 6 states"),
        ({"dt": torch.zeros(2, 40, 4)}, "either all or none should be float64"),
        ({"reset": torch.zeros(2, 40)}, "reset has dtype"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mamba3(**{**operands(initial=False), **change})

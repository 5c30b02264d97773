"""Gated linear attention: chunks and steps against float64 autograd of its definition."""

from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from keelback.errors import InputError
from keelback.ssd import gated_linear_attention, gated_linear_attention_step, ssd
from operator_gradients import near, with_gradients

NAMES = ("q", "k", "v", "g", "weights", "initial_states")


def operands(
    batch: int = 2, length: int = 70, heads: int = 4, groups: int = 2, key: int = 8, value: int = 5,
    *, optional: bool = True, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """All operands in float64, by their names."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    rows = (batch, length)
    found: dict[str, Any] = {
        "q": normal(*rows, groups, key),
        "k": normal(*rows, groups, key),
        "v": normal(*rows, heads, value),
        "g": -normal(*rows, heads).abs(),
    }
    if optional:
        found["weights"] = normal(*rows, heads)
        found["initial_states"] = normal(batch, heads, value, key)
        found["reset"] = torch.rand(rows, generator=generator) < 0.05
    return found


@settings(max_examples=20, deadline=None)
@drawn(
    batch=st.integers(0, 2), length=st.integers(0, 140), per_group=st.integers(1, 2),
    groups=st.integers(1, 2), key=st.integers(1, 9), value=st.integers(1, 9),
    optional=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_sizes(
    batch: int, length: int, per_group: int, groups: int, key: int, value: int, optional: bool,
    seed: int,
) -> None:  # fmt: skip
    sizes = (batch, length, per_group * groups, groups, key, value)
    given = operands(*sizes, optional=optional, seed=seed)
    expected = with_gradients(gated_linear_attention, given, "reference", torch.float64)
    near(with_gradients(gated_linear_attention, given, None, torch.float64), expected, 1e-11)


def test_float32_is_near() -> None:
    given = operands(2, 200, key=32, value=16)
    expected = with_gradients(gated_linear_attention, given, "reference", torch.float64)
    near(with_gradients(gated_linear_attention, given, None, torch.float32), expected, 1e-5)


def test_with_step_sizes_it_is_the_scan_by_heads() -> None:
    given = operands(optional=False)
    A, dt = -torch.rand(4, dtype=torch.float64), given["g"].abs()
    expected = ssd(given["v"], dt, A, given["k"], given["q"])
    y = gated_linear_attention(given["q"], given["k"], given["v"], dt * A, dt)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [True, False])
def test_steps_are_the_sequence(dtype: torch.dtype, weighted: bool) -> None:
    given = operands(length=6)
    states = given.pop("initial_states").to(torch.promote_types(dtype, torch.float32))
    given = {name: given[name].to(dtype) for name in NAMES[: 5 if weighted else 4]}
    whole, last = gated_linear_attention(
        **given, initial_states=states, return_final_states=True, backend="reference"
    )
    found = []
    for t in range(6):
        y, states = gated_linear_attention_step(states, *(x[:, t] for x in given.values()))
        found.append(y)
    assert found[0].dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(torch.stack(found, 1), whole, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(states, last, rtol=1e-5, atol=1e-5)


def test_gradients_of_a_step() -> None:
    given = operands(length=1)
    del given["reset"]

    def step(*leaves: Tensor) -> Any:
        *now, states = leaves
        return gated_linear_attention_step(states, *(x.squeeze(1) for x in now))

    leaves = [x.requires_grad_() for x in given.values()]
    assert torch.autograd.gradcheck(step, leaves)


def test_the_operator_passes_opcheck() -> None:
    given = operands(length=6, key=3, value=2)
    leaves = [
        x[None] if x.dtype == torch.bool else x[None].requires_grad_() for x in given.values()
    ]
    torch.library.opcheck(torch.ops.keelback.gated_linear_attention, tuple(leaves))


def test_many_at_once_and_under_compile() -> None:
    given = operands()
    v = given.pop("v")
    many = torch.func.vmap(lambda v: gated_linear_attention(v=v, **given))(torch.stack([v, 2 * v]))
    torch.testing.assert_close(many[1], gated_linear_attention(v=2 * v, **given))
    compiled = torch.compile(gated_linear_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(v=v, **given), gated_linear_attention(v=v, **given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g": torch.zeros(2, 70, 3)}, r"g has shape .* \(2, 70, 4\)"),
        ({"weights": torch.zeros(2, 70)}, r"weights has shape .* \(2, 70, 4\)"),
        (
            {"initial_states": torch.zeros(2, 4, 8, 5)},
            r"initial_states has shape .* \(2, 4, 5, 8\)",
        ),
        ({"q": torch.zeros(2, 70, 3, 8)}, r"q has shape .* \(2, 70, 2, 8\)"),
        ({"reset": torch.zeros(2, 70)}, r"reset has dtype torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gated_linear_attention(**{**operands(), **change})

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
    *, optional: bool = True, by_channel: bool = False, seed: int = 0,
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
        "g": -normal(*rows, heads, *([key] if by_channel else [])).abs(),
    }
    if optional:
        found["weights"] = normal(*rows, heads)
        found["initial_states"] = normal(batch, heads, value, key)
        found["reset"] = torch.rand(rows, generator=generator) < 0.05
    return found


@settings(max_examples=60, deadline=None)
@drawn(
    batch=st.integers(0, 2), length=st.integers(0, 140), per_group=st.integers(1, 2),
    groups=st.integers(1, 2), key=st.integers(1, 9), value=st.integers(1, 9),
    optional=st.booleans(), by_channel=st.booleans(), seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)  # fmt: skip
def test_any_sizes(
    batch: int, length: int, per_group: int, groups: int, key: int, value: int, optional: bool,
    by_channel: bool, seed: int, dtype: torch.dtype,
) -> None:  # fmt: skip
    """float64 by products of PyTorch, float32 by kernels."""
    sizes = (batch, length, per_group * groups, groups, key, value)
    given = operands(*sizes, optional=optional, by_channel=by_channel, seed=seed)
    expected = with_gradients(gated_linear_attention, given, "reference", torch.float64)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-5
    near(with_gradients(gated_linear_attention, given, None, dtype), expected, tolerance)


EITHER = pytest.mark.parametrize("by_channel", [False, True], ids=["head", "channel"])


@EITHER
def test_float32_is_near(by_channel: bool) -> None:
    given = operands(2, 200, key=32, value=16, by_channel=by_channel)
    expected = with_gradients(gated_linear_attention, given, "reference", torch.float64)
    near(with_gradients(gated_linear_attention, given, None, torch.float32), expected, 1e-5)


@EITHER
def test_operands_may_lie_anyhow(by_channel: bool) -> None:
    """Turned, with gaps, and the same number for all."""
    given = {name: x.float() for name, x in operands(by_channel=by_channel).items()}
    given["reset"] = given["reset"].bool()
    given["weights"] = given["weights"][:1, :1, :1].expand(2, 70, 4)
    expected = gated_linear_attention(**{n: x.clone() for n, x in given.items()})
    turned = {name: x.mT.contiguous().mT for name, x in given.items() if name != "reset"}
    gaps = {name: torch.stack([x, x], 2)[:, :, 0] for name, x in given.items() if x.ndim > 2}
    for other in (turned, gaps):
        torch.testing.assert_close(gated_linear_attention(**{**given, **other}), expected)


def test_with_step_sizes_it_is_the_scan_by_heads() -> None:
    given = operands(optional=False)
    A, dt = -torch.rand(4, dtype=torch.float64), given["g"].abs()
    expected = ssd(given["v"], dt, A, given["k"], given["q"])
    y = gated_linear_attention(given["q"], given["k"], given["v"], dt * A, dt)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [True, False])
@EITHER
def test_steps_are_the_sequence(by_channel: bool, weighted: bool, dtype: torch.dtype) -> None:
    given = operands(length=6, by_channel=by_channel)
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


def test_one_decay_for_all_channels_is_that_of_the_head() -> None:
    given = operands()
    expected = with_gradients(gated_linear_attention, given, None, torch.float64)
    given["g"] = given["g"].unsqueeze(-1).expand(-1, -1, -1, 8).contiguous()
    found = with_gradients(gated_linear_attention, given, None, torch.float64)
    found[5] = found[5].sum(-1)
    near(found, expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decays_per_channel_however_strong(dtype: torch.dtype) -> None:
    """Logs of nothing, of a little and of much more than any float holds stand side by side."""
    given = operands(2, 150, key=16, value=16, by_channel=True)
    sizes = torch.tensor([0.0, 1e-3, 1.0, 30.0, 1e3, 1e6], dtype=torch.float64)
    given["g"] = given["g"] * sizes[torch.randint(6, given["g"].shape)]
    expected = with_gradients(gated_linear_attention, given, "reference", torch.float64)
    found = with_gradients(gated_linear_attention, given, None, dtype)
    near(found, expected, 1e-12 if dtype == torch.float64 else 1e-5)


def test_gradients_of_faint_decays_lose_no_digits() -> None:
    """By PyTorch's products: a gradient as small as what the step keeps is as exact as others."""
    given = operands(1, 64, 1, 1, 4, 4, optional=False, by_channel=True)
    given["g"][:, 20] = -30.0
    expected = with_gradients(gated_linear_attention, given, "reference", torch.float64)[5][:, 20]
    found = with_gradients(gated_linear_attention, given, None, torch.float64)[5][:, 20]
    assert 0 < float(expected.abs().max()) < 1e-10
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0.0)


def test_a_channel_that_forgets_everything_takes_nothing_across() -> None:
    given = operands(1, 40, optional=False, by_channel=True)
    given["g"][:, 25] = -torch.inf
    y = gated_linear_attention(**given)
    alone = gated_linear_attention(**{name: x[:, 25:] for name, x in given.items()})
    torch.testing.assert_close(y[:, 25:], alone, rtol=1e-12, atol=1e-12)


@EITHER
def test_gradients_of_a_step(by_channel: bool) -> None:
    given = operands(length=1, by_channel=by_channel)
    del given["reset"]

    def step(*leaves: Tensor) -> Any:
        *now, states = leaves
        return gated_linear_attention_step(states, *(x.squeeze(1) for x in now))

    leaves = [x.requires_grad_() for x in given.values()]
    assert torch.autograd.gradcheck(step, leaves)


@EITHER
def test_the_operator_passes_opcheck(by_channel: bool) -> None:
    given = operands(length=6, key=3, value=2, by_channel=by_channel)
    leaves = [
        x[None] if x.dtype == torch.bool else x[None].requires_grad_() for x in given.values()
    ]
    torch.library.opcheck(torch.ops.keelback.gated_linear_attention, tuple(leaves))


@EITHER
def test_many_at_once_and_under_compile(by_channel: bool) -> None:
    given = operands(by_channel=by_channel)
    v = given.pop("v")
    many = torch.func.vmap(lambda v: gated_linear_attention(v=v, **given))(torch.stack([v, 2 * v]))
    torch.testing.assert_close(many[1], gated_linear_attention(v=2 * v, **given))
    compiled = torch.compile(gated_linear_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(v=v, **given), gated_linear_attention(v=v, **given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g": torch.zeros(2, 70, 3)}, r"g has shape .* \(2, 70, 4\) or \(2, 70, 4, 8\)"),
        ({"g": torch.zeros(2, 70, 2, 8)}, r"g has shape .* \(2, 70, 4\) or \(2, 70, 4, 8\)"),
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

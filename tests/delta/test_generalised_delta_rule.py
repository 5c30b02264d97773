"""The generalised delta rule of RWKV-7 against float64 autograd of its definition."""

from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from keelback.delta import delta_rule, generalised_delta_rule, generalised_delta_rule_step
from keelback.delta.chunked import generalised
from keelback.errors import InputError
from operator_gradients import near, with_gradients

NAMES = ("q", "k", "v", "a", "b", "g")


def operands(
    batch: int = 2, length: int = 40, heads: int = 2, key: int = 8, value: int = 5,
    *, optional: bool = True, seed: int = 0, decay: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """All operands in float64 as RWKV-7 has them: it erases along a key what lies there."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    rows = (batch, length, heads)
    kappa = normalize(normal(*rows, key), dim=-1)
    found: dict[str, Any] = {
        "q": normal(*rows, key),
        "k": normal(*rows, key),
        "v": normal(*rows, value),
        "a": -kappa,
        "b": torch.sigmoid(normal(*rows, key)) * kappa,
        "g": -decay * torch.sigmoid(normal(*rows, key)),
    }
    if optional:
        found["initial_states"] = normal(batch, heads, key, value)
        found["reset"] = torch.rand((batch, length), generator=generator) < 0.05
    return found


@settings(max_examples=15, deadline=None)
@drawn(
    batch=st.integers(0, 2), length=st.integers(0, 90), heads=st.integers(1, 2),
    key=st.integers(1, 9), value=st.integers(1, 9), optional=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@pytest.mark.parametrize("decay", [1.0, 40.0])
def test_any_sizes(
    decay: float,
    batch: int,
    length: int,
    heads: int,
    key: int,
    value: int,
    optional: bool,
    seed: int,
) -> None:
    """Decays between steps as products of two factors, and one by one."""
    sizes = (batch, length, heads, key, value)
    given = operands(*sizes, optional=optional, seed=seed, decay=decay)
    expected = with_gradients(generalised_delta_rule, given, "reference", torch.float64)
    near(with_gradients(generalised_delta_rule, given, None, torch.float64), expected, 1e-11)


@pytest.mark.parametrize("decay", [1.0, 40.0])
@pytest.mark.parametrize("at_a_time", [1, 1 << 11, 1 << 30])
def test_what_is_worked_on_at_a_time_changes_nothing(
    at_a_time: int, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generalised, "NUMBERS_AT_A_TIME", at_a_time)
    given = operands(3, 150, decay=decay)
    expected = with_gradients(generalised_delta_rule, given, "reference", torch.float64)
    near(with_gradients(generalised_delta_rule, given, None, torch.float64), expected, 1e-11)


@pytest.mark.parametrize("decay", [0.6065, 30.0])
def test_float32_is_near(decay: float) -> None:
    """RWKV-7's decays, and some of which hardly anything is left after a step."""
    given = operands(2, 120, key=32, value=16, decay=decay)
    expected = with_gradients(generalised_delta_rule, given, "reference", torch.float64)
    near(with_gradients(generalised_delta_rule, given, None, torch.float32), expected, 2e-5)


def test_with_one_vector_it_is_the_gated_delta_rule() -> None:
    """(I - beta k k^T) diag(w) = diag(w) - (beta k) (w k)^T, which writes beta k v^T."""
    given = operands(optional=False)
    k, g = normalize(given["k"], dim=-1), given["g"]
    beta = torch.rand(2, 40, 2, dtype=torch.float64)
    expected = delta_rule(given["q"], k, given["v"], g, beta, scale=1.0)
    written = beta.unsqueeze(-1) * k
    y = generalised_delta_rule(given["q"], written, given["v"], -k * g.exp(), written, g)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_steps_are_the_sequence(dtype: torch.dtype) -> None:
    given = operands(length=6)
    states = given["initial_states"].to(torch.promote_types(dtype, torch.float32))
    given = {name: given[name].to(dtype) for name in NAMES}
    whole, last = generalised_delta_rule(
        **given, initial_states=states, return_final_states=True, backend="reference"
    )
    found = []
    for t in range(6):
        y, states = generalised_delta_rule_step(states, *(x[:, t] for x in given.values()))
        found.append(y)
    assert found[0].dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(torch.stack(found, 1), whole, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(states, last, rtol=1e-5, atol=1e-5)


def test_gradients_of_a_step() -> None:
    given = operands(length=1, key=3, value=2)
    del given["reset"]

    def step(*leaves: Tensor) -> Any:
        *now, states = leaves
        return generalised_delta_rule_step(states, *(x.squeeze(1) for x in now))

    assert torch.autograd.gradcheck(step, [x.requires_grad_() for x in given.values()])


def test_the_operator_passes_opcheck() -> None:
    given = operands(length=6, key=3, value=2)
    leaves = [
        x[None] if x.dtype == torch.bool else x[None].requires_grad_() for x in given.values()
    ]
    torch.library.opcheck(torch.ops.keelback.generalised_delta_rule, tuple(leaves))


def test_many_at_once_and_under_compile() -> None:
    given = operands()
    v = given.pop("v")
    many = torch.func.vmap(lambda v: generalised_delta_rule(v=v, **given))(torch.stack([v, 2 * v]))
    torch.testing.assert_close(many[1], generalised_delta_rule(v=2 * v, **given))
    compiled = torch.compile(generalised_delta_rule, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(v=v, **given), generalised_delta_rule(v=v, **given))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"g": torch.zeros(2, 40, 2)}, r"g has shape .* \(2, 40, 2, 8\)"),
        ({"a": torch.zeros(2, 40, 2, 7)}, r"a has shape .* \(2, 40, 2, 8\)"),
        (
            {"initial_states": torch.zeros(2, 2, 5, 8)},
            r"initial_states has shape .* \(2, 2, 8, 5\)",
        ),
        ({"q": torch.zeros(2, 40, 2, 8)}, "either all or none should be float64"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generalised_delta_rule(**{**operands(), **change})

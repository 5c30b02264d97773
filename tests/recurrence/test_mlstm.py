"""The mLSTM against its definition in float64, and the steps that generation takes."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from keelback.errors import InputError
from keelback.recurrence import MlstmStates, mlstm, mlstm_step
from keelback.recurrence.reference import mlstm_reference


def operands(
    batch: int, length: int, heads: int, key: int, value: int, *, seed: int = 0, spread: float = 3.0
) -> list[Tensor]:
    """q, k, v, both logs, and states, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    rows, of_states = (batch, length, heads), (batch, heads)
    gates = [spread * normal(*rows), torch.nn.functional.logsigmoid(spread * normal(*rows))]
    states = [normal(*of_states, key, value), normal(*of_states, key), spread * normal(*of_states)]
    return [normal(*rows, key), normal(*rows, key), normal(*rows, value), *gates, *states]


def ours(*given: Tensor, epsilon: float = 0.0, **options: Any) -> tuple[Tensor, ...]:
    """`mlstm` with operands and results in a row, and queries as they are."""
    y, states = mlstm(
        *given[:5], MlstmStates(*given[5:]), scale=1.0, epsilon=epsilon, **options
    )  # fmt: skip
    return (y, *states)


def with_gradients(function: Any, given: list[Tensor], **options: Any) -> list[Tensor]:
    """Output and last states, and gradients of all operands from all of these."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in given]
    found = function(*leaves, **options)
    loss: Any = 0.0
    for one in found:
        weights = torch.linspace(-1, 2, one.numel(), dtype=torch.float64).view(one.shape)
        loss = loss + (one.double() * weights).sum()
    gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return [*(x.detach() for x in found), *gradients]


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(scale: float) -> None:
    given = operands(1, 5, 2, 3, 4)[:5]
    with pytest.raises(InputError, match=r"scale is .*; it should be a finite number"):
        mlstm(*given, scale=scale)


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 2), length=st.integers(1, 140), heads=st.integers(1, 2),
    key=st.integers(1, 5), value=st.integers(1, 5), seed=st.integers(0, 99),
    epsilon=st.sampled_from([0.0, 1e-6, 0.3]),
)  # fmt: skip
def test_outputs_states_and_gradients_are_those_of_the_definition(
    batch: int, length: int, heads: int, key: int, value: int, seed: int, epsilon: float
) -> None:
    """The gradient of the exponents, too: what is divided by them is not handed on with one."""
    leaves = operands(batch, length, heads, key, value, seed=seed)
    expected = with_gradients(mlstm_reference, leaves, epsilon=epsilon)
    for one, other in zip(with_gradients(ours, leaves, epsilon=epsilon), expected, strict=True):
        size = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * size)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_float32_is_near(backend: Any) -> None:
    leaves = operands(2, 200, 2, 16, 8)
    expected = with_gradients(mlstm_reference, leaves, epsilon=1e-6)
    narrow = with_gradients(ours, [x.float() for x in leaves], epsilon=1e-6, backend=backend)
    for one, other in zip(narrow, expected, strict=True):
        size = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, rtol=0, atol=2e-4 * size)
    torch.testing.assert_close(narrow[0].double(), expected[0], rtol=1e-4, atol=1e-4)


def test_gates_whose_logs_run_far_apart_lose_no_digits() -> None:
    """The sum of the log forget gates falls to -1,500, and input gates' logs rise to 500."""
    q, k, v, *_ = operands(1, 600, 1, 4, 4)
    q, k = q.abs(), k.abs()  # No term of the denominator cancels another.
    falls = torch.full((1, 600, 1), -2.5, dtype=torch.float64)
    rises = -falls.cumsum(1) / 3
    given = [q, k, v, rises, falls]
    zeros = [torch.zeros(size, dtype=torch.float64) for size in ((1, 1, 4, 4), (1, 1, 4), (1, 1))]
    expected = mlstm_reference(*given, *zeros)[0]
    y, states = mlstm(*(x.float() for x in given), scale=1.0)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    assert all(bool(x.isfinite().all()) for x in states)


@pytest.mark.parametrize("shift", [-500.0, 500.0])
def test_gates_that_overflow_an_exponential_are_weighed_against_each_other(shift: float) -> None:
    q, k, v, log_input, log_forget, *_ = operands(1, 90, 2, 4, 3)
    y, states = mlstm(q, k, v, log_input + shift, log_forget)
    assert all(bool(x.isfinite().all()) for x in (y, *states))
    if shift < 0:  # The denominator is 1, and what is divided by it next to nothing.
        assert float(y.abs().max()) < 1e-200
    else:  # Beside weights of this size the 1 of the definition is nothing.
        higher = mlstm(q, k, v, log_input + shift + 100, log_forget)[0]
        torch.testing.assert_close(higher, y, rtol=1e-9, atol=1e-9)


def test_a_forget_gate_of_zero_forgets() -> None:
    q, k, v, log_input, log_forget, *_ = operands(1, 80, 1, 4, 3)
    log_forget[:, 40] = -torch.inf
    whole, _ = mlstm(q, k, v, log_input, log_forget)
    begun = mlstm(*(x[:, 40:] for x in (q, k, v, log_input, log_forget)))[0]
    torch.testing.assert_close(whole[:, 40:], begun, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
def test_a_sequence_in_parts_and_in_steps_is_the_whole(epsilon: float) -> None:
    given = operands(2, 100, 2, 4, 3)[:5]
    whole, last = mlstm(*given, epsilon=epsilon)
    states, found = None, []
    for start, stop in ((0, 70), (70, 70), (70, 90)):
        y, states = mlstm(*(x[:, start:stop] for x in given), states, epsilon=epsilon)
        found.append(y)
    assert states is not None
    for t in range(90, 100):
        y, states = mlstm_step(states, *(x[:, t] for x in given), epsilon=epsilon)
        found.append(y.unsqueeze(1))
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-9, atol=1e-9)
    for one, other in zip(states, last, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_gradients_of_a_step_are_those_of_the_definition() -> None:
    given = operands(2, 1, 2, 4, 3)

    def step(*leaves: Tensor) -> tuple[Tensor, ...]:
        now = (x.squeeze(1) for x in leaves[:5])
        y, states = mlstm_step(MlstmStates(*leaves[5:]), *now, scale=1.0, epsilon=0.1)
        return (y.unsqueeze(1), *states)

    expected = with_gradients(mlstm_reference, given, epsilon=0.1)
    for one, other in zip(with_gradients(step, given), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_many_at_once_and_under_compile() -> None:
    given = operands(2, 70, 2, 4, 3)[:5]
    q, *others = given
    stacked, _ = torch.func.vmap(lambda q: mlstm(q, *others))(torch.stack([q, 2 * q]))
    torch.testing.assert_close(stacked[1], mlstm(2 * q, *others)[0])
    compiled = torch.compile(mlstm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given)[0], mlstm(*given)[0])


def test_half_precision_is_computed_in_float32() -> None:
    given = [x.bfloat16() for x in operands(2, 70, 2, 8, 4)[:5]]
    y, states = mlstm(*given)
    expected, _ = mlstm(*(x.float() for x in given))
    assert y.dtype == torch.bfloat16
    assert states.memory.dtype == torch.float32
    torch.testing.assert_close(y, expected.bfloat16())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.ones(1, 3, 1, 4)}, r"k has shape .* \(1, 3, 2, key\)"),
        ({"log_input": torch.ones(1, 3)}, r"log_input has shape .* \(1, 3, 2\)"),
        ({"v": torch.ones(1, 3, 2, 4).double()}, "either all or none should be float64"),
        ({"backend": "cuda"}, "backend is 'cuda' and v is on cpu"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    fits = dict.fromkeys("qkv", torch.ones(1, 3, 2, 4)) | dict.fromkeys(
        ("log_input", "log_forget"), torch.zeros(1, 3, 2)
    )
    with pytest.raises(InputError, match=message):
        mlstm(**{**fits, **change})

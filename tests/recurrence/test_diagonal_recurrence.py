"""The diagonal recurrence and RWKV's weighted mean against their definitions in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from keelback.errors import InputError
from keelback.recurrence import WkvStates, cuda, diagonal_recurrence, wkv
from keelback.recurrence.reference import diagonal_recurrence_reference


def operands(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Factors between 0 and 1 with some zeros, inputs, and a first state."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(shape, generator=generator, dtype=torch.float64)
    a = torch.where(a < 0.1, torch.zeros(()), a.sqrt()).to(dtype)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    first = torch.randn(shape[0], shape[2], generator=generator, dtype=torch.float64).to(dtype)
    return [leaf.requires_grad_() for leaf in (a, x, first)]


def with_gradients(function: Any, given: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of its sum, weighted by numbers that are all different."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in given]
    y = function(*leaves)
    weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
    loss = (y.double() * weights).sum()
    return [y.detach(), *torch.autograd.grad(loss, leaves, materialize_grads=True)]


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(0, 3), length=st.integers(0, 40), channels=st.integers(0, 9),
    seed=st.integers(0, 99),
)  # fmt: skip
@pytest.mark.parametrize("kernels", ["cpu", "doubling"])
def test_states_and_gradients_are_those_of_the_definition(
    kernels: str, batch: int, length: int, channels: int, seed: int
) -> None:
    leaves = operands(batch, length, channels, seed=seed, dtype=torch.float64)
    expected = with_gradients(diagonal_recurrence_reference, leaves)
    if kernels == "cpu":
        found = with_gradients(diagonal_recurrence, leaves)
    else:
        call = cuda.prepare((), ())
        (y,) = call.forward(leaves, False)
        weights = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view(y.shape)
        found = [y.detach(), *(x.detach() for x in call.backward([weights], [], leaves))]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 700, 300), (5, 33, 256)])
def test_float32_is_as_near_as_it_can_be(shape: tuple[int, int, int]) -> None:
    """Several tiles of channels, of several sequences, by several threads."""
    leaves = operands(*shape)
    expected = with_gradients(diagonal_recurrence_reference, [x.double() for x in leaves])
    for one, other in zip(with_gradients(diagonal_recurrence, leaves), expected, strict=True):
        size = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-6 * size)


def test_a_factor_of_zero_begins_anew_and_one_keeps_all() -> None:
    a = torch.tensor([1.0, 1.0, 0.0, 1.0]).view(1, 4, 1)
    first = torch.full((1, 1), 5.0)
    for backend in ("reference", "cpu"):
        found = diagonal_recurrence(a, torch.ones(1, 4, 1), first, backend=backend)
        assert found.flatten().tolist() == [6.0, 7.0, 1.0, 2.0]


def test_gradcheck() -> None:
    leaves = operands(2, 5, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(diagonal_recurrence, leaves)


def test_the_operator_passes_opcheck() -> None:
    leaves = [x.detach()[None].requires_grad_() for x in operands(2, 6, 3)]
    torch.library.opcheck(torch.ops.keelback.diagonal_recurrence, tuple(leaves))


def test_many_at_once_and_under_compile() -> None:
    a, x, first = (leaf.detach() for leaf in operands(2, 6, 3))
    stacked = torch.func.vmap(diagonal_recurrence, (None, 0, None))(
        a, torch.stack([x, 2 * x]), first
    )
    torch.testing.assert_close(stacked[1], diagonal_recurrence(a, 2 * x, first))
    compiled = torch.compile(diagonal_recurrence, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, x, first), diagonal_recurrence(a, x, first))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    a, x, _ = (leaf.detach() for leaf in operands(2, 50, 3))
    found = diagonal_recurrence(a, x.to(dtype))
    assert found.dtype == dtype
    assert torch.equal(found, diagonal_recurrence(a, x.to(dtype).float()).to(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.ones(2, 3, 5)}, r"a has shape \(2, 3, 5\); it should be \(2, 3, 4\)"),
        ({"x": torch.ones(3, 4)}, "x has shape"),
        ({"initial_state": torch.ones(2, 3)}, r"initial_state has shape .* \(2, 4\)"),
        ({"a": torch.ones(2, 3, 4).double()}, "either all or none should be float64"),
        ({"x": torch.ones(2, 3, 4, dtype=torch.int64)}, "x has dtype torch.int64"),
        ({"backend": "cuda"}, "backend is 'cuda' and x is on cpu"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    fits = {"a": torch.ones(2, 3, 4), "x": torch.ones(2, 3, 4)}
    with pytest.raises(InputError, match=message):
        diagonal_recurrence(**{**fits, **change})


def wkv_by_definition(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, values: Tensor, weights: Tensor
) -> Tensor:
    """The sums themselves, in float64: nothing is divided by a largest exponent."""
    found = []
    for now in range(k.shape[1]):
        ages = torch.arange(now - 1, -1, -1)[:, None]
        of_past = (ages * w + k[:, :now]).exp()
        of_now = (u + k[:, now]).exp()
        decay = (now * w).exp()
        above = decay * values + (of_past * v[:, :now]).sum(1) + of_now * v[:, now]
        found.append(above / (decay * weights + of_past.sum(1) + of_now))
    return torch.stack(found, 1)


def wkv_operands(batch: int, length: int, channels: int, dtype: torch.dtype) -> list[Tensor]:
    """k, v, w, u, and the sums of the first states, whose exponent is 0."""
    generator = torch.Generator().manual_seed(1)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    k, v = 3 * normal(batch, length, channels), normal(batch, length, channels)
    w, u = -normal(channels).exp(), normal(channels)
    values, weights = normal(batch, channels), normal(batch, channels).exp()
    return [x.to(dtype) for x in (k, v, w, u, values, weights)]


def from_sums(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, values: Tensor, weights: Tensor
) -> Tensor:
    return wkv(k, v, w, u, WkvStates(values, weights, torch.zeros_like(values)))[0]


@pytest.mark.parametrize("length", [1, 2, 60])
def test_means_and_their_gradients_are_those_of_the_definition(length: int) -> None:
    given = wkv_operands(2, length, 5, torch.float64)
    found, expected = with_gradients(from_sums, given), with_gradients(wkv_by_definition, given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    narrow = with_gradients(from_sums, [x.float() for x in given])
    for one, other in zip(narrow, expected, strict=True):
        size = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, rtol=0, atol=2e-5 * size)


def test_keys_that_overflow_an_exponential_do_not_matter() -> None:
    k, v, w, u, *_ = wkv_operands(1, 30, 4, torch.float64)
    y, _ = wkv(k, v, w, u)
    for shift in (-5e4, 5e4):
        moved, states = wkv(k + shift, v, w, u)
        torch.testing.assert_close(moved, y, rtol=1e-9, atol=1e-9)
        assert all(bool(x.isfinite().all()) for x in states)


def test_a_sequence_in_parts_is_the_whole() -> None:
    k, v, w, u, *_ = wkv_operands(2, 41, 4, torch.float32)
    whole, last = wkv(k, v, w, u)
    states, found = None, []
    for start, stop in ((0, 20), (20, 20), (20, 21), (21, 41)):
        y, states = wkv(k[:, start:stop], v[:, start:stop], w, u, states)
        found.append(y)
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-5, atol=1e-6)
    assert states is not None
    torch.testing.assert_close(states.values, last.values, rtol=1e-4, atol=1e-6)


def test_traced_and_plain_exponents_are_the_same() -> None:
    k, v, w, u, *_ = wkv_operands(2, 41, 4, torch.float64)
    compiled = torch.compile(wkv, fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(k, v, w, u)[1], wkv(k, v, w, u)[1], strict=True):
        torch.testing.assert_close(one, other)


def test_short_pieces_without_end_keep_small_weights() -> None:
    """Keys fall for ever, so that the largest exponent does, too."""
    k = -0.4 * torch.arange(900.0).view(1, -1, 1)
    v, w, u = torch.randn(1, 900, 1), torch.full((1,), -0.4), torch.full((1,), 0.4)
    whole, _ = wkv(k, v, w, u)
    states, found = None, []
    for start in range(0, 900, 2):
        y, states = wkv(k[:, start : start + 2], v[:, start : start + 2], w, u, states)
        found.append(y)
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(whole, v.cumsum(1) / torch.arange(1, 901).view(1, -1, 1),
                               rtol=1e-3, atol=1e-3)  # fmt: skip


def test_keys_of_another_shape_are_refused() -> None:
    k, v, w, u, *_ = wkv_operands(1, 3, 4, torch.float32)
    with pytest.raises(InputError, match=r"log_decay has shape \(3,\); it should be \(4\)"):
        wkv(k, v, w[:3], u)

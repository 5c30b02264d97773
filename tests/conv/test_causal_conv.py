"""The causal convolution against its definition in float64, and under PyTorch's transforms."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, vmap

from keelback.conv import causal_conv1d, causal_conv1d_update
from keelback.errors import InputError


def operands(
    batch: int, length: int, channels: int, width: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length + 7 * channels + width)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    # As behind a projection to x and the gate: there are other numbers between the steps of x.
    x = normal(batch, length, 2 * channels)[..., :channels]
    return x, normal(channels, width), normal(channels)


def by_definition(x: Tensor, weight: Tensor, bias: Tensor, silu: bool = True) -> Tensor:
    """Step by step, tap by tap."""
    width = weight.shape[1]
    steps = []
    for t in range(x.shape[1]):
        terms = [
            weight[:, k] * x[:, t - width + 1 + k] for k in range(width) if t - width + 1 + k >= 0
        ]
        steps.append(bias + torch.stack(terms).sum(0))
    y = torch.stack(steps, dim=1)
    return F.silu(y) if silu else y


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 40),
    channels=st.sampled_from([1, 5, 16, 35, 300]),
    width=st.integers(1, 6),
    silu=st.booleans(),
)
def test_output_and_gradients_are_those_of_the_definition(
    batch: int, length: int, channels: int, width: int, silu: bool
) -> None:
    leaves = [one.requires_grad_() for one in operands(batch, length, channels, width)]
    y = causal_conv1d(*leaves, "silu" if silu else None)
    expected = by_definition(*leaves, silu)
    torch.testing.assert_close(y, expected)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad(y, leaves, dy)
    for one, other in zip(found, torch.autograd.grad(expected, leaves, dy), strict=True):
        torch.testing.assert_close(one, other)


def test_long_sequences_cut_into_chunks_and_tiles_and_threads() -> None:
    x, weight, bias = operands(2, 700, 530, 4, torch.float32)
    leaves = [one.requires_grad_() for one in (x, weight, bias)]
    precise = [one.detach().double().requires_grad_() for one in leaves]
    y, expected = (
        causal_conv1d(*leaves, "silu"),
        causal_conv1d(*precise, "silu", backend="reference"),
    )
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(y.sin().sum(), leaves)
    wanted = torch.autograd.grad(expected.sin().sum(), precise)
    for one, other in zip(found, wanted, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-5


def test_gradcheck() -> None:
    leaves = [one.requires_grad_() for one in operands(2, 9, 5, 4)]
    assert torch.autograd.gradcheck(lambda *args: causal_conv1d(*args, "silu"), leaves)


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
def test_a_sequence_in_parts_is_the_whole(activation) -> None:
    x, weight, bias = operands(2, 23, 6, 4)
    whole, last = causal_conv1d(x, weight, bias, activation, return_last_state=True)
    torch.testing.assert_close(last, x[:, -3:])
    state, parts = None, []
    for part in x.split([1, 2, 9, 11], dim=1):
        y, state = causal_conv1d(part, weight, bias, activation, state, return_last_state=True)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    torch.testing.assert_close(state, last)


def test_the_gradient_of_an_initial_state() -> None:
    x, weight, bias = operands(2, 3, 6, 4)
    state = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    y, last = causal_conv1d(x, weight, bias, "silu", state, return_last_state=True)
    joined = by_definition(torch.cat([state, x], dim=1), weight, bias)[:, 3:]
    [found] = torch.autograd.grad(y.sum() + last.sum(), [state], retain_graph=True)
    [expected] = torch.autograd.grad(joined.sum(), [state])
    torch.testing.assert_close(found, expected)


def test_a_last_state_longer_than_the_sequence_begins_with_zeros() -> None:
    x, weight, bias = operands(1, 2, 3, 5)
    _, last = causal_conv1d(x, weight, bias, return_last_state=True)
    torch.testing.assert_close(last, torch.cat([torch.zeros(1, 2, 3), x], dim=1))
    _, nothing = causal_conv1d(x, weight[:, :1], bias, return_last_state=True)
    assert nothing.shape == (1, 0, 3)


@pytest.mark.parametrize("past", [3, 4, 7])
@pytest.mark.parametrize("steps", [None, 1, 3])
def test_steps_one_by_one_are_the_whole(past: int, steps: int | None) -> None:
    x, weight, bias = operands(2, 12, 6, 4)
    state, outputs = torch.zeros(2, 6, past, dtype=torch.float64), []
    for part in x.split(steps or 1, dim=1):
        given = part[:, 0] if steps is None else part.mT
        y = causal_conv1d_update(given, state, weight, bias, "silu")
        outputs.append(y[:, None] if steps is None else y.mT)
    torch.testing.assert_close(torch.cat(outputs, dim=1), causal_conv1d(x, weight, bias, "silu"))
    torch.testing.assert_close(state, x.mT[..., -past:])


@pytest.mark.parametrize("shape", [(0, 5, 4), (2, 0, 4), (2, 5, 0)])
def test_nothing_in_nothing_out(shape: tuple[int, int, int]) -> None:
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn(shape[2], 4, requires_grad=True)
    y = causal_conv1d(x, weight, activation="silu")
    assert y.shape == shape
    dx, dweight = torch.autograd.grad(y.sum(), [x, weight])
    assert dx.shape == shape
    assert not dweight.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x, weight, bias = (one.to(dtype) for one in operands(2, 20, 9, 4))
    y = causal_conv1d(x, weight, bias, "silu")
    assert y.dtype == dtype
    expected = causal_conv1d(x.float(), weight.float(), bias.float(), "silu").to(dtype)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)


def test_infinity_and_nan_stay_in_their_channels_and_reach() -> None:
    x, weight, bias = operands(1, 12, 5, 3)
    x, expected = x.clone(), by_definition(x, weight, bias)
    x[0, 4, 1], x[0, 2, 3] = torch.inf, torch.nan
    y = causal_conv1d(x, weight, bias, "silu")
    spoilt = torch.zeros(1, 12, 5, dtype=torch.bool)
    spoilt[0, 4:7, 1] = spoilt[0, 2:5, 3] = True
    torch.testing.assert_close(y[~spoilt], expected[~spoilt])
    assert y[0, 2:5, 3].isnan().all()


def test_very_large_sums_do_not_overflow_in_the_activation() -> None:
    x = torch.tensor([1e30, -1e30, 1e4, -1e4, 90.0, -90.0]).reshape(1, 1, 6).requires_grad_()
    y = causal_conv1d(x, torch.ones(6, 1), activation="silu")
    torch.testing.assert_close(y, F.silu(x), rtol=1e-6, atol=1e-37)
    [found] = torch.autograd.grad(y.sum(), [x])
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]]]))


@pytest.mark.parametrize("biased", [True, False])
def test_the_operator_passes_opcheck(biased: bool) -> None:
    x, weight, bias = (one.unsqueeze(0).requires_grad_() for one in operands(2, 9, 5, 4))
    given = (x, weight, bias if biased else None)
    torch.library.opcheck(torch.ops.keelback.causal_conv1d, (*given, True))
    plain = [None if one is None else one.detach() for one in given]
    dy = torch.ones_like(x).detach().contiguous()
    torch.library.opcheck(torch.ops.keelback.causal_conv1d_backward, (dy, *plain, True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_a_bias(dtype: torch.dtype) -> None:
    """Under `vmap` and the compiler too; and weights in half precision have such gradients."""
    leaves = [one.to(dtype).requires_grad_() for one in operands(2, 9, 5, 4)[:2]]
    precise = [one.detach().double().requires_grad_() for one in leaves]

    def squares(x: Tensor, weight: Tensor) -> Tensor:
        return causal_conv1d(x, weight, activation="silu").to(x.dtype).square().sum()

    expected = torch.autograd.grad(squares(*precise), precise)
    compiled = torch.compile(squares, backend="aot_eager", fullgraph=True)
    detached = [one.detach() for one in leaves]
    mapped = vmap(grad(squares, argnums=(0, 1)))(*(one.unsqueeze(0) for one in detached))
    for found in (
        torch.autograd.grad(squares(*leaves), leaves),
        torch.autograd.grad(compiled(*leaves), leaves),
        [one.squeeze(0) for one in mapped],
    ):
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == dtype
            allowed = 1e-5 if dtype == torch.float32 else 2e-2
            assert float((one.double() - other).norm()) < allowed * float(other.norm())


def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (causal_conv1d(x, weight, bias, "silu") ** 2).sum()


def loss_by_definition(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return (by_definition(x, weight, bias) ** 2).sum()


def test_gradients_of_many_models_at_once() -> None:
    """`vmap` of `grad`, over inputs and weights, and with one input for all."""
    cases = [operands(2, 8 + 0 * seed, 5, 4) for seed in range(3)]
    x, weight, bias = (torch.stack([case[i] * (1 + i) for case in cases]) for i in range(3))
    weight = weight + torch.arange(3.0, dtype=torch.float64)[:, None, None]
    gradients = grad(loss, argnums=(0, 1, 2))
    expected = grad(loss_by_definition, argnums=(0, 1, 2))
    for found, wanted in zip(
        vmap(gradients)(x, weight, bias), vmap(expected)(x, weight, bias), strict=True
    ):
        torch.testing.assert_close(found, wanted)
    one = vmap(gradients, in_dims=(None, 0, 0))(x[0], weight, bias)
    for found, wanted in zip(
        one, vmap(expected, in_dims=(None, 0, 0))(x[0], weight, bias), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_under_compile() -> None:
    leaves = [one.requires_grad_() for one in operands(2, 9, 5, 4)]
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(*leaves), leaves)
    for one, other in zip(found, torch.autograd.grad(loss(*leaves), leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_second_derivatives_are_refused_by_name() -> None:
    leaves = [one.requires_grad_() for one in operands(1, 4, 3, 2)]
    gradients = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.autograd.grad(gradients[0].square().sum(), leaves)


def test_wider_kernels_than_there_are_compiled_are_pytorchs() -> None:
    x, weight, bias = operands(1, 50, 3, 40)
    torch.testing.assert_close(
        causal_conv1d(x, weight, bias), by_definition(x, weight, bias, False)
    )


@pytest.mark.parametrize(("width", "backend"), [(4, "reference"), (40, None)])
@pytest.mark.parametrize("shape", [(0, 5, 4), (2, 0, 4), (2, 5, 0)])
def test_pytorchs_gives_nothing_for_nothing_too(
    shape: tuple[int, int, int], width: int, backend: str | None
) -> None:
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn(shape[2], width, requires_grad=True)
    y = causal_conv1d(x, weight, activation="silu", backend=backend)
    assert y.shape == shape
    dx, dweight = torch.autograd.grad(y.sum(), [x, weight])
    assert dx.shape == shape
    assert not dweight.any()


def test_an_initial_state_is_not_rounded_to_the_type_of_what_follows() -> None:
    x, weight, _ = (one.float() for one in operands(2, 3, 4, 4))
    state = torch.randn(2, 3, 4)
    y, last = causal_conv1d(
        x.bfloat16(), weight, initial_state=state, return_last_state=True, backend="cpu"
    )
    expected = causal_conv1d(x.bfloat16().float(), weight, initial_state=state)
    assert torch.equal(y, expected.bfloat16())
    again, _ = causal_conv1d(x.bfloat16(), weight, None, None, last, return_last_state=True)
    assert again.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 4)}, "x has shape"),
        ({"x": None}, "x is None; it should be a tensor"),
        ({"x": [1.0]}, "x is a list; it should be a tensor"),
        ({"weight": None}, "weight is None; it should be a tensor"),
        ({"bias": 1.0}, "bias is a float; it should be a tensor"),
        ({"weight": torch.zeros(5, 4)}, "weight has shape"),
        ({"weight": torch.zeros(4, 0)}, "weight has no taps"),
        ({"bias": torch.zeros(3)}, "bias has shape"),
        ({"activation": "relu"}, "it should be 'silu', 'swish' or None"),
        ({"initial_state": torch.zeros(2, 4, 4)}, "initial_state has shape"),
        ({"weight": torch.zeros(4, 4, dtype=torch.float64)}, "either all or none"),
        ({"backend": "cuda"}, "they should agree"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    given = {"x": torch.zeros(2, 5, 4), "weight": torch.zeros(4, 4), **change}
    with pytest.raises(InputError, match=message):
        causal_conv1d(**given)


def test_a_state_that_is_too_short_is_refused() -> None:
    with pytest.raises(InputError, match="it should hold 3 or more"):
        causal_conv1d_update(torch.zeros(2, 4), torch.zeros(2, 4, 2), torch.zeros(4, 4))


@pytest.mark.parametrize("steps", [None, 1, 3])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("narrow", ["weight", "x", "state", "bias"])
def test_steps_are_computed_in_float32_whatever_is_half(
    narrow: str, half: torch.dtype, steps: int | None
) -> None:
    x, weight, bias = operands(2, steps or 1, 6, 4, torch.float32)
    state = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    given = {"x": x[:, 0] if steps is None else x.mT, "state": state, "weight": weight}
    given = {**given, "bias": bias}
    given[narrow] = given[narrow].to(half)
    precise = {name: one.double() for name, one in given.items()}
    expected = causal_conv1d_update(**precise, activation="silu")
    y = causal_conv1d_update(**given, activation="silu")
    assert y.dtype == given["x"].dtype
    allowed = torch.finfo(y.dtype).eps
    assert float((y.double() - expected).norm() / expected.norm()) < 2 * allowed


@pytest.mark.parametrize("length", [(), (1,), (3,)])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "gelu"}, "activation is 'gelu'; it should be 'silu', 'swish' or None"),
        ({"activation": True}, "activation is True"),
        ({"bias": torch.zeros(4, 1)}, r"bias has shape \(4, 1\); it should be \(4\)"),
        ({"bias": torch.zeros(1)}, "bias has shape"),
        ({"weight": torch.zeros(4, 0)}, "weight has no taps"),
        ({"weight": torch.zeros(1, 4)}, "weight has shape"),
        ({"state": torch.zeros(2, 1, 3)}, "state has shape"),
        ({"weight": torch.zeros(4, 4).double()}, "either all or none should be float64"),
        ({"state": torch.zeros(2, 4, 3).long()}, "state has dtype torch.int64"),
        ({"state": torch.zeros(2, 4, 3, device="meta")}, "state is on meta"),
    ],
)
def test_a_step_that_does_not_fit_is_refused_and_leaves_the_state(
    change: dict[str, object], message: str, length: tuple[int, ...]
) -> None:
    state = torch.zeros(2, 4, 3)
    given = {"x": torch.ones(2, 4, *length), "state": state, "weight": torch.zeros(4, 4), **change}
    with pytest.raises(InputError, match=message):
        causal_conv1d_update(**given)
    assert not state.any()


def test_autocast_leaves_a_step_in_float32() -> None:
    x, weight, bias = operands(2, 1, 6, 4, torch.float32)
    state = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    expected = causal_conv1d_update(x[:, 0], state.clone(), weight, bias, "silu")
    with torch.autocast("cpu", torch.bfloat16):
        found = causal_conv1d_update(x[:, 0], state.clone(), weight, bias, "silu")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)

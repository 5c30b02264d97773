"""The compiled scan against float64 autograd of the definition."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scan_cases import Case, outputs_and_gradients, relative_errors

from keelback.scan import attention_matrix, selective_scan

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}

cases = st.builds(
    Case,
    batch=st.integers(1, 4),
    length=st.sampled_from([1, 2, 3, 31, 63, 64, 65, 130]),
    groups=st.integers(1, 3),
    channels_per_group=st.sampled_from([1, 2, 3, 4, 5, 8, 15, 16, 17, 40]),
    state=st.sampled_from([1, 2, 3, 4, 16, 17]),
    shared_delta=st.booleans(),
    optional=st.booleans(),
    softplus=st.booleans(),
    resets=st.booleans(),
    rate=st.sampled_from([-20.0, -1.0, 0.0, 0.1]),
    delta_scale=st.sampled_from([0.0, 1e-6, 1.0, 8.0, 1e4]),
    seed=st.integers(0, 1000),
)
# What grows, grows by less than exp(80): beyond lies the overflow of float32.
growing = st.builds(
    Case,
    length=st.sampled_from([1, 40, 100]),
    channels_per_group=st.sampled_from([1, 4, 16]),
    softplus=st.just(False),
    optional=st.booleans(),
    delta_scale=st.just(1.0),
    rate=st.sampled_from([0.1, 0.5]),
    seed=st.integers(0, 1000),
)


def tame(case: Case) -> bool:
    steps = case.delta_scale + case.optional  # The bias is added to each.
    return case.rate <= 0 or case.rate * steps * case.length < 60


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(case=st.one_of(cases, growing).filter(tame))
@example(case=Case(length=1))
@example(case=Case(channels_per_group=1, state=1))
@example(case=Case(groups=3, channels_per_group=5, length=70))
@example(case=Case(batch=1, channels_per_group=200, state=16, length=65))
def test_outputs_and_gradients_are_those_of_the_definition(dtype: torch.dtype, case: Case) -> None:
    expected = outputs_and_gradients(case, "reference", torch.float64)
    errors = relative_errors(outputs_and_gradients(case, None, dtype), expected)
    assert max(errors.values()) < TOLERANCE[dtype], errors


@pytest.mark.parametrize("channels", [4, 20])
@pytest.mark.parametrize("present", range(16), ids="{:04b}".format)
def test_every_choice_of_optional_operands(present: int, channels: int, monkeypatch) -> None:
    optional = ("D", "z", "delta_bias", "initial_state")
    absent = [name for bit, name in enumerate(optional) if not present >> bit & 1]
    case = Case(channels_per_group=channels)
    operands = {name: x for name, x in case.operands().items() if name not in absent}
    monkeypatch.setattr(Case, "operands", lambda _: operands)
    expected = outputs_and_gradients(case, "reference", torch.float64)
    errors = relative_errors(outputs_and_gradients(case, None, torch.float64), expected)
    assert max(errors.values()) < 1e-12, errors


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rate=st.sampled_from([1.0, 10.0, 1e3, 1e30]),
    delta_scale=st.sampled_from([1e-2, 1.0, 50.0, 1e30]),
    length=st.sampled_from([1, 20, 70]),
    seed=st.integers(0, 1000),
)
def test_overflow_is_inf_or_nan_and_never_a_wrong_number(
    rate: float, delta_scale: float, length: int, seed: int
) -> None:
    case = Case(length=length, rate=rate, delta_scale=delta_scale, softplus=False, seed=seed)
    operands = case.operands()
    exact = selective_scan(**operands, backend="reference")
    found = selective_scan(**{name: x.float() for name, x in operands.items()}).double()
    finite = found.isfinite()
    largest = torch.finfo(torch.float32).max
    assert not finite[exact.abs() > 1.001 * largest].any()
    assert not finite[exact.isnan()].any()
    close = (found - exact).abs() <= 1e-3 * exact.abs() + 1e-3
    assert close[finite].all()


def test_a_state_that_overflowed_gives_no_finite_gradient_of_what_it_saw() -> None:
    case = Case(length=40, rate=400.0, softplus=False, optional=False)
    gradients = outputs_and_gradients(case, None, torch.float32)
    assert not gradients["A"].isfinite().any()
    assert not gradients["u"][:, 0].isfinite().any()


def test_nan_spreads_along_its_own_channel_only() -> None:
    operands = {name: x.float() for name, x in Case(optional=False).operands().items()}
    operands["u"][0, 5, 2] = math.nan
    y = selective_scan(**operands, delta_softplus=True)
    assert y[0, 5:, 2].isnan().all()
    assert y.isnan().sum() == 37 - 5


def test_large_gradients_of_padding_lanes_stay_out_of_sums() -> None:
    case = Case(channels_per_group=3, optional=False)
    operands = {name: x.float().requires_grad_() for name, x in case.operands().items()}
    with torch.no_grad():
        operands["B"][0, 3] = math.inf
    y = selective_scan(**operands, delta_softplus=True)
    gradient = torch.autograd.grad(y[:, :3].sum(), operands["C"])[0]
    assert gradient[:, :3].isfinite().all()


@pytest.mark.parametrize("channels", [4, 40])
def test_any_strides_give_the_same_numbers(channels: int) -> None:
    case = Case(channels_per_group=channels, groups=2)
    plain = {name: x.float() for name, x in case.operands().items()}
    expected = selective_scan(**plain, delta_softplus=True)
    strided = {name: x.transpose(0, -1).contiguous().transpose(0, -1) for name, x in plain.items()}
    assert not strided["u"].is_contiguous()
    torch.testing.assert_close(
        selective_scan(**strided, delta_softplus=True), expected, rtol=0, atol=0
    )


def test_expanded_operands_need_no_memory_of_their_own() -> None:
    case = Case(batch=3, optional=False)
    plain = {name: x.float() for name, x in case.operands().items()}
    plain["B"] = plain["B"][:1, :1].expand_as(plain["B"])
    plain["delta"] = plain["delta"][:, :, :1].expand_as(plain["u"])
    copied = {name: x.contiguous() for name, x in plain.items()}
    torch.testing.assert_close(
        selective_scan(**plain, delta_softplus=True),
        selective_scan(**copied, delta_softplus=True),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(("batch", "length", "state"), [(0, 5, 4), (2, 0, 4), (0, 0, 4), (2, 5, 0)])
def test_nothing_to_scan(batch: int, length: int, state: int) -> None:
    case = Case(batch=batch, length=length, state=state)
    found = outputs_and_gradients(case, None, torch.float64)
    expected = outputs_and_gradients(case, "reference", torch.float64)
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x)


def test_the_attention_matrix_times_the_input_is_the_scan() -> None:
    case = Case(groups=2, channels_per_group=3, length=50, optional=False, softplus=False)
    operands = case.operands()
    u = operands.pop("u")
    attention = attention_matrix(**operands)
    assert attention.shape == (2, 6, 50, 50)
    y = torch.einsum("bcts,bsc->btc", attention, u)
    torch.testing.assert_close(y, selective_scan(u, **operands), rtol=1e-12, atol=1e-12)


def test_the_attention_matrix_takes_long_decays() -> None:
    case = Case(length=200, rate=-1e3, delta_scale=10.0, optional=False, softplus=False)
    operands = case.operands()
    u = operands.pop("u")
    y = torch.einsum("bcts,bsc->btc", attention_matrix(**operands), u)
    torch.testing.assert_close(y, selective_scan(u, **operands), rtol=1e-12, atol=1e-12)

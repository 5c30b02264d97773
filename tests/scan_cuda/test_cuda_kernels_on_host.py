"""The CUDA source, compiled for the host and run thread by thread, against float64 autograd."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from cuda_cases import (
    Case,
    backward_pass,
    errors_of,
    forward_pass,
    make_operands,
    prepared,
    relative_error,
    tolerance,
)
from host_kernels import COMPILER, run_on_host

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")

CASES = [
    Case(),
    Case(batch=1, length=1, channels=8),
    Case(length=37, channels=20, z=True, initial=True),
    Case(length=70, channels=12, states=4, spans=2, replicas=2, z=True, initial=True, reset=True),
    Case(length=50, channels=6, states=3, groups=2, shared_delta=True),
    Case(length=40, channels=5, states=1, D=False, bias=False, softplus=False),
    Case(dtype=torch.bfloat16),
    Case(dtype=torch.bfloat16, channels=80, states=4, spans=2),
    Case(length=40, channels=8, states=2, dtype=torch.bfloat16, shared_delta=False),
    Case(dtype=torch.float16, z=True, states=8),
    Case(dtype=torch.float64, initial=True),
    Case(length=33, channels=8, states=40, spans=2),
    Case(batch=1, length=19, channels=4, states=200),
    Case(length=130, channels=8, spans=3, reset=True, initial=True, unstable=True),
    Case(length=250, channels=20, states=4, spans=3, reset=True, initial=True, z=True),
    Case(length=300, channels=6, states=2, spans=5, groups=2, initial=True),
    Case(length=333, channels=24, D=False, bias=False, softplus=False),
    Case(length=333, channels=24, spans=5, D=False, bias=False, softplus=False),
    Case(batch=1, length=420, channels=4, states=2, spans=13, initial=True),
    Case(length=100, dtype=torch.bfloat16, initial=True, reset=True),
    Case(length=90, channels=10, states=4, softplus=False, bias=False, initial=True),
    Case(length=200, channels=20, states=1, spans=3, dtype=torch.float16, z=True, initial=True),
    Case(length=100, channels=6, states=3, groups=2, spans=2, shared_delta=True, reset=True),
    Case(batch=1, length=120, channels=4, states=200, spans=3, dtype=torch.float64, replicas=2),
]


@pytest.fixture(autouse=True)
def on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    run_on_host(monkeypatch, processors=132)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_are_those_of_the_reference(case: Case) -> None:
    errors = errors_of(case)
    assert max(errors.values()) < tolerance(case), errors


def scanned(arguments: dict[str, Any], spans: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return forward_pass(*prepared(**arguments), spans)


@pytest.mark.parametrize("spans", [1, 3])
def test_overflow_is_infinite_and_never_a_wrong_number(spans: int) -> None:
    arguments = make_operands(Case(length=130, channels=8, D=False, bias=False, softplus=False))
    for name in ("u", "delta", "A", "B", "C"):
        arguments[name] = torch.ones_like(arguments[name])
    y, last = scanned(arguments, spans)
    assert torch.isfinite(y[:, :, :80]).all()
    assert torch.isinf(y[:, :, 100:]).all()
    assert torch.isinf(last).all()


def test_nan_stays_in_its_channel_and_does_not_go_away() -> None:
    arguments = make_operands(Case(length=70, channels=8))
    arguments["u"][0, 0, 20, 3] = math.nan
    y, _ = scanned(arguments, spans=2)
    assert torch.isnan(y[0, 0, 20:, 3]).all()
    assert torch.isfinite(y[0, 0, :20, 3]).all()
    assert torch.isfinite(y[0, 0, :, :3]).all()
    assert torch.isfinite(y[0, 1]).all()


def test_a_reset_forgets_even_an_infinite_state() -> None:
    arguments = make_operands(Case(length=70, channels=8, reset=True))
    arguments["reset"][:] = False
    arguments["reset"][0, 0, 60] = True
    arguments["u"][0, 0, 5] = math.inf
    y, last = scanned(arguments, spans=2)
    assert torch.isfinite(y[0, 0, 60:]).all()
    assert torch.isfinite(last).all()


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_later_spans_learn_of_what_is_not_finite_however_fast_it_decays(value: float) -> None:
    arguments = make_operands(Case(length=200, channels=8, z=True))
    arguments["A"] -= 100
    arguments["u"][0, 0, 20, 3] = value
    y, last = scanned(arguments, spans=3)
    assert not torch.isfinite(y[0, 0, 20:, 3]).any()
    assert not torch.isfinite(last[0, 0, 3]).any()
    assert torch.isfinite(y[0, 0, :, :3]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_span_is_corrected_as_far_as_the_state_before_it_reaches(dtype: torch.dtype) -> None:
    case = Case(length=400, channels=8, states=5, dtype=dtype, softplus=False, bias=False, D=False)
    arguments = make_operands(case)
    arguments["delta"] = arguments["delta"].abs()
    arguments["A"] = (arguments["A"] - 1) * torch.logspace(0, 3, 5, dtype=dtype)
    arguments["u"][:, :, 133:] = 0  # What is left of the first span is all that there is.
    y, last = scanned(arguments, spans=3)
    precise = {name: x.double() for name, x in arguments.items() if isinstance(x, torch.Tensor)}
    expected, _ = scanned({**arguments, **precise})
    for start in range(130, 250, 20):
        part = slice(start, start + 20)
        assert relative_error(y[:, :, part], expected[:, :, part]) < 1e-4
    assert last.abs().max() < 1e-37
    assert y[:, :, 390:].abs().max() < 1e-37


def fading(case: Case, exponent: float) -> dict[str, Any]:
    """States of the first 64 steps fade slowly, by e^-exponent in eight steps at most."""
    arguments = make_operands(replace(case, softplus=False, bias=False, D=False))
    arguments["A"] = arguments["A"] / arguments["A"].abs().max()
    arguments["delta"] = torch.full_like(arguments["delta"], exponent / 8)
    arguments["u"][:, :, 64:] = 0
    return arguments


def in_float64(arguments: dict[str, Any]) -> torch.Tensor:
    precise = {name: x.double() for name, x in arguments.items() if isinstance(x, torch.Tensor)}
    if arguments["reset"] is not None:
        precise["reset"] = arguments["reset"]
    return scanned({**arguments, **precise})[0]


@pytest.mark.parametrize("exponent", [1e-4, 0.02, 0.3, 0.499, 0.501, 0.99, 1.01])
@pytest.mark.parametrize(("dtype", "states"), [(torch.float32, 16), (torch.bfloat16, 8)])
def test_fading_states_reach_outputs_by_their_series(
    dtype: torch.dtype, states: int, exponent: float
) -> None:
    case = Case(batch=1, length=192, channels=12, states=states, dtype=dtype, z=True)
    arguments = fading(case, exponent)
    y, _ = scanned(arguments, spans=3)
    expected = in_float64(arguments)[:, :, 64:]
    rounding = relative_error(expected.to(dtype), expected)
    assert relative_error(y[:, :, 64:], expected) < 1.002 * rounding + 1e-6


def test_fading_states_with_steps_of_both_signs_and_a_reset() -> None:
    arguments = fading(Case(batch=2, length=192, channels=16, reset=True), 0.2)
    arguments["delta"] *= make_operands(Case(batch=2, length=192))["delta"]
    arguments["reset"][:] = False
    arguments["reset"][:, 0, 83] = True
    y, _ = scanned(arguments, spans=3)
    expected = in_float64(arguments)
    assert (y[:, 0, 83:] == 0).all()
    assert relative_error(y[:, :, 64:], expected[:, :, 64:]) < 1e-6


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e35])
def test_fading_states_that_have_no_series_keep_to_their_channel(value: float) -> None:
    arguments = fading(Case(batch=1, length=192, channels=16), 0.1)
    arguments["B"], arguments["C"] = arguments["B"].abs(), arguments["C"].abs()
    expected, _ = scanned(arguments, spans=3)
    arguments["u"][0, 0, 20, 3] = value
    y, _ = scanned(arguments, spans=3)
    others = torch.arange(16) != 3
    assert relative_error(y[..., others], expected[..., others].double()) < 1e-6
    if math.isfinite(value):
        assert relative_error(y, in_float64(arguments)) < 1e-6
    else:
        torch.testing.assert_close(
            y[0, 0, 20:, 3], torch.full((172,), value), equal_nan=True, rtol=0, atol=0
        )


@pytest.mark.parametrize("scale", [1e-8, 40.0])
def test_very_small_and_very_large_steps(scale: float) -> None:
    case = Case(length=40, channels=8, D=False, bias=False, softplus=False)
    arguments = make_operands(case)
    arguments["delta"] = scale * arguments["delta"].abs()
    y, _ = scanned(arguments)
    precise = {name: x.double() for name, x in arguments.items() if isinstance(x, torch.Tensor)}
    expected, _ = scanned({**arguments, **precise})
    assert (y - expected).norm() < 1e-5 * expected.norm()


def test_gaps_between_rows_change_nothing() -> None:
    arguments = make_operands(Case(length=40, z=True))
    expected, _ = scanned(arguments)
    for name in ("u", "delta", "z", "B", "C"):
        wide = torch.stack([arguments[name], torch.full_like(arguments[name], math.nan)], dim=-2)
        arguments[name] = wide[..., 0, :]
    found, _ = scanned(arguments)
    assert torch.equal(found, expected)


def test_transposed_operands_change_nothing() -> None:
    arguments = make_operands(Case(length=40))
    expected, _ = scanned(arguments)
    for name in ("u", "delta"):
        arguments[name] = arguments[name].mT.contiguous().mT
    found, _ = scanned(arguments)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("spans", "states"), [(1, 16), (3, 16), (3, 4)])
def test_deterministic_gradients_are_the_same_sums(spans: int, states: int) -> None:
    arguments = make_operands(Case(length=40 * spans, channels=80, batch=3, states=states))
    scan, given = prepared(**arguments)
    dy = torch.ones_like(arguments["u"])
    added = backward_pass(scan, given, dy, None, spans)
    torch.use_deterministic_algorithms(True)
    try:
        summed = backward_pass(scan, given, dy, None, spans)
    finally:
        torch.use_deterministic_algorithms(False)
    for name in ("A", "B", "C", "D", "delta_bias"):
        torch.testing.assert_close(getattr(summed, name), getattr(added, name))

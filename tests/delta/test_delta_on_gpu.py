"""The GPU backend on a GPU, over a grid of sizes, types and options, and beyond."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from delta_cases import Case, errors_of, make_operands, relative_error, tolerance

from keelback.delta import delta_rule, delta_rule_step
from keelback.delta.reference import delta_rule_step_reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

SIZES = [
    {"key": 32, "value": 16},
    {"key": 64, "value": 64, "length": 128},
    {"key": 128, "value": 128, "length": 330, "heads": 4},
    {"key": 96, "value": 200, "length": 100},
    {"key": 64, "value": 256, "length": 65, "batch": 1},
    {"key": 128, "value": 72, "length": 1},
    {"key": 40, "value": 24, "length": 50},
]
OPTIONS = [
    {},
    {"initial": True, "reset": 0.02, "scale": 0.3, "decay": 0.05},
    {"normalise": False, "decay": 0.02, "beta": 1.5},
    {"decay": 40.0, "beta": 1.0},
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CASES = [
    Case(dtype=dtype, **size, **options) for dtype, size, options in product(DTYPES, SIZES, OPTIONS)
]
#: With a decay per key channel, of which some or all are too strong to be split, or there is none.
OF_CHANNELS = [
    {"strong": -50.0, "initial": True, "reset": 0.02},
    {"decay": 0.0, "beta": 2.0, "initial": True},
    {"decay": 0.05, "scale": 0.3},
    {"decay": 5.0, "reset": 0.1, "normalise": False},
]
CHANNELS = [
    Case(dtype=dtype, by_channel=True, **size, **options)
    for dtype, size, options in product(DTYPES[1:], SIZES, OF_CHANNELS)
]
CHANNELS += [
    Case(by_channel=True, key=64, value=64, heads=4, groups=2, dtype=dtype, **options)
    for dtype, options in product(DTYPES, OF_CHANNELS)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients(case: Case) -> None:
    # What earlier tensors left behind must not matter.
    poison = [torch.full((1 << 20,), torch.nan, device="cuda") for _ in range(16)]
    del poison
    errors = errors_of(case, delta_rule, "cuda")
    for name, error in errors.items():
        # Of strong decays little is left for beta: its gradients are sums that cancel.
        allowed = 4 * tolerance(case) if name == "dbeta" else tolerance(case)
        assert error < allowed, errors


@pytest.mark.parametrize("case", CHANNELS, ids=str)
def test_outputs_and_gradients_by_channel(case: Case) -> None:
    poison = [torch.full((1 << 20,), torch.nan, device="cuda") for _ in range(16)]
    del poison
    errors = errors_of(case, delta_rule, "cuda")
    for error in errors.values():
        # Where steps reflect, nothing is forgotten: the roundings of all factors add up, as they do
        # with a decay per head.
        allowed = 2 * tolerance(case) if case.beta == 2.0 else tolerance(case)
        assert error < allowed, errors


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step(dtype: torch.dtype, by_channel: bool) -> None:
    case = Case(length=1, heads=4, key=128, value=72, dtype=dtype, by_channel=by_channel)
    given = make_operands(replace(case, initial=True))
    now = [given[name][:, 0] for name in ("q", "k", "v", "g", "beta")]
    states = given["initial_states"]
    expected = delta_rule_step_reference(*(x.double() for x in (*now, states)), True, 0.3)
    on_gpu = [x.cuda() for x in (states, *now)]
    found = delta_rule_step(*on_gpu, normalise=True, scale=0.3)
    for ours, exact in zip(found, expected, strict=True):
        assert relative_error(ours, exact) < tolerance(case)


@pytest.mark.parametrize("by_channel", [False, True])
def test_a_hundred_thousand_steps_in_one_call(by_channel: bool) -> None:
    case = Case(
        batch=1,
        length=100_000,
        heads=2,
        groups=1,
        key=64,
        value=64,
        dtype=torch.bfloat16,
        by_channel=by_channel,
    )
    given = {
        name: x.cuda() if isinstance(x, torch.Tensor) else x
        for name, x in make_operands(case).items()
    }
    y = delta_rule(**given)
    tail = 2000
    ends = {
        name: x[:, -tail:].double().cpu() if isinstance(x, torch.Tensor) else x
        for name, x in given.items()
    }
    expected = delta_rule(**ends)
    assert isinstance(y, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    assert relative_error(y[:, -tail // 2 :], expected[:, -tail // 2 :]) < tolerance(case)


@pytest.mark.parametrize("by_channel", [False, True])
def test_the_last_states_are_where_the_next_call_goes_on(by_channel: bool) -> None:
    case = Case(
        length=200,
        heads=4,
        key=128,
        value=128,
        dtype=torch.bfloat16,
        by_channel=by_channel,
        decay=0.05,
    )
    given = {
        name: x.cuda() if isinstance(x, torch.Tensor) else x
        for name, x in make_operands(case).items()
    }
    whole, last = delta_rule(**given, return_final_states=True)
    first = {n: x[:, :77] if isinstance(x, torch.Tensor) else x for n, x in given.items()}
    rest = {n: x[:, 77:] if isinstance(x, torch.Tensor) else x for n, x in given.items()}
    y, between = delta_rule(**first, return_final_states=True)
    z, after = delta_rule(**{**rest, "initial_states": between}, return_final_states=True)
    assert relative_error(torch.cat([y, z], 1), whole.double().cpu()) < tolerance(case)
    assert relative_error(after, last.double().cpu()) < tolerance(case)

"""The chunks of the CPU backend against float64 autograd of the recurrence, step by step."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from ssd_cases import Case, errors_of, make_operands, precise, relative_error, tolerance
from torch import Tensor

from keelback.compiled.layouts import signature_of
from keelback.ssd import cpu, ssd, ssd_step
from keelback.ssd.chunked import blocks
from keelback.ssd.reference import ssd_reference

OPERANDS = 10
DOUBLE = torch.float64
CASES = [
    Case(),
    Case(dtype=DOUBLE),
    Case(batch=1, length=1, heads=1),
    Case(length=64),
    Case(length=65),
    Case(length=150, groups=3, z=True, initial=True, reset=True, D="number", dtype=DOUBLE),
    Case(length=150, groups=3, z=True, initial=True, reset=True, D="number"),
    Case(length=130, D=None, bias=False, softplus=False, dt_limit=(0.1, 0.4)),
    Case(length=100, D=None, bias=False, softplus=False, dt_limit=(-1.0, 1.0), dtype=DOUBLE),
    Case(batch=1, length=200, heads=4, groups=2, head_dim=64, state=128),
    Case(batch=1, length=64, heads=1, head_dim=20, state=100, D="number", z=True, initial=True),
    Case(length=300, rate=0.001, initial=True),
]


def run_forward(*arguments: Any) -> tuple[Tensor, ...]:
    operands = arguments[:OPERANDS]
    found = cpu.prepare(signature_of(operands), arguments[OPERANDS:]).forward(operands, False)
    return tuple(found)


def run_backward(dy: Any, dlast: Any, *arguments: Any) -> tuple[Tensor, ...]:
    operands = arguments[:OPERANDS]
    call = cpu.prepare(signature_of(operands), arguments[OPERANDS:])
    return tuple(call.backward((dy, dlast), (), operands))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_are_those_of_the_reference(case: Case) -> None:
    errors = errors_of(case, run_forward, run_backward)
    for error in errors.values():
        assert error < tolerance(case), errors


@settings(max_examples=25, deadline=None)
@drawn(
    batch=st.integers(1, 3),
    length=st.integers(1, 140),
    heads=st.integers(1, 3),
    groups=st.integers(1, 2),
    head_dim=st.integers(1, 9),
    state=st.integers(1, 9),
    flags=st.tuples(*[st.booleans()] * 4),
    skip=st.sampled_from([None, "head", "number"]),
)
def test_any_sizes_and_options(
    batch: int,
    length: int,
    heads: int,
    groups: int,
    head_dim: int,
    state: int,
    flags: tuple[bool, ...],
    skip: str | None,
) -> None:
    z, initial, reset, bias = flags
    case = Case(batch, length, heads * groups, head_dim, groups, state, DOUBLE, None, skip, z, bias)
    case = dataclasses.replace(case, initial=initial, reset=reset)
    errors = errors_of(case, run_forward, run_backward)
    for error in errors.values():
        assert error < 1e-11, errors


@pytest.mark.parametrize("at_a_time", [1, 1 << 14, 1 << 30])
def test_what_is_worked_on_at_a_time_changes_nothing(
    at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "NUMBERS_AT_A_TIME", at_a_time)
    case = Case(batch=3, length=400, z=True, initial=True, reset=True, dtype=DOUBLE)
    errors = errors_of(case, run_forward, run_backward)
    for error in errors.values():
        assert error < tolerance(case), errors


@pytest.mark.parametrize("rate", [1e3, 1e6])
def test_steep_decays_leave_what_comes_after_them_exact(rate: float) -> None:
    """After a decay of exp(-1000 and less) the small logs of later steps must still count."""
    given = make_operands(Case(batch=1, length=128, heads=1, softplus=False, bias=False))
    given["dt"] = torch.full_like(given["dt"], 1e-3 / rate)
    given["dt"][:, ::40] = 5.0
    given["A"] = torch.tensor([-rate])
    exact, _ = ssd_reference(**precise(given))
    y = ssd(**given)
    assert relative_error(y, exact) < 1e-6


def test_a_state_that_grows_overflows_as_the_recurrence_does() -> None:
    given = make_operands(Case(batch=1, length=100, heads=1, softplus=False, bias=False, D=None))
    given["A"], given["dt"] = torch.tensor([1.0]), torch.full_like(given["dt"], 10.0)
    y, last = ssd(**given, return_final_states=True)
    assert not torch.isfinite(last).any()
    assert torch.isfinite(y[:, :5]).all()
    expected, _ = ssd_reference(**precise(given))
    assert relative_error(y[:, :5], expected[:, :5]) < 1e-5


@pytest.mark.parametrize(("dtype", "rate"), [(torch.float32, 2.0), (DOUBLE, 18.0)])
def test_growth_before_a_reset_is_not_felt_after_it(dtype: torch.dtype, rate: float) -> None:
    """No sequence of 20 steps overflows; without the resets between them a chunk of 64 would."""
    case = Case(length=130, dtype=dtype, softplus=False, bias=False, initial=True)
    given = make_operands(case)
    given["A"], given["dt"] = torch.full_like(given["A"], rate), torch.ones_like(given["dt"])
    given["reset"] = torch.zeros(given["dt"].shape[:2], dtype=torch.bool)
    given["reset"][:, 10::20] = True
    exact = precise(given)
    expected, expected_last = ssd_reference(**exact)
    names = [name for name, x in exact.items() if isinstance(x, Tensor) and x.requires_grad]
    leaves = [given[name].requires_grad_() for name in names]
    y, last = ssd(**given, return_final_states=True)
    eps = 100 * torch.finfo(dtype).eps
    assert relative_error(last, expected_last) < eps
    for t in range(130):  # The largest outputs must not hide the first ones of a sequence.
        assert relative_error(y[:, t], expected[:, t]) < eps, t
    gradients = torch.autograd.grad(y.sum() + last.sum(), leaves)
    of_exact = torch.autograd.grad(
        expected.sum() + expected_last.sum(), [exact[name] for name in names]
    )
    for name, one, other in zip(names, gradients, of_exact, strict=True):
        assert relative_error(one, other) < eps, name


def test_nan_at_a_step_is_in_no_output_before_its_chunk() -> None:
    given = make_operands(Case(batch=1, length=200))
    clean = ssd(**given)
    given["x"][:, 150] = math.nan
    y = ssd(**given)
    before = 150 // blocks.CHUNK * blocks.CHUNK
    assert torch.equal(y[:, :before], clean[:, :before])
    assert y[:, 150:].isnan().all()


@pytest.mark.parametrize(("batch", "length"), [(0, 10), (2, 0)])
def test_an_empty_scan_returns_the_initial_states(batch: int, length: int) -> None:
    given = make_operands(Case(batch=batch, length=length, initial=True))
    leaves = [x.requires_grad_() for x in given.values() if torch.is_tensor(x)]
    y, last = ssd(**given, return_final_states=True)
    assert y.shape == (batch, length, 3, 16)
    assert torch.equal(last, given["initial_states"])
    gradients = torch.autograd.grad(last.sum() + y.sum(), leaves)
    for leaf, gradient in zip(leaves[:-1], gradients[:-1], strict=True):
        assert not gradient.any(), leaf.shape
    assert (gradients[-1] == 1).all()


def test_scanning_in_two_parts_is_scanning_at_once() -> None:
    given = make_operands(Case(length=150, z=True, dtype=DOUBLE))
    whole, whole_last = ssd(**given, return_final_states=True)

    def part(steps: slice, start: Tensor | None) -> Any:
        sequences = {name: given[name][:, steps] for name in ("x", "dt", "B", "C", "z")}
        arguments = {**given, **sequences, "initial_states": start}
        return ssd(**arguments, return_final_states=True)

    first, middle = part(slice(0, 37), None)
    second, last = part(slice(37, None), middle)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, whole_last)


def test_packed_sequences_are_scanned_one_by_one() -> None:
    given = make_operands(Case(batch=1, length=140, dtype=DOUBLE))
    bounds = torch.tensor([0, 3, 3, 90, 140])
    packed = ssd(**given, cu_seqlens=bounds)
    numbers = torch.bucketize(torch.arange(140), bounds[1:], right=True)[None]
    assert torch.equal(ssd(**given, seq_idx=numbers), packed)
    for start, stop in ((0, 3), (3, 90), (90, 140)):
        one = {name: given[name][:, start:stop] for name in ("x", "dt", "B", "C")}
        torch.testing.assert_close(packed[:, start:stop], ssd(**{**given, **one}))


def test_steps_are_those_of_the_scan() -> None:
    given = make_operands(Case(length=5, groups=3, z=True, D="number", initial=True, dtype=DOUBLE))
    y, last = ssd(**given, return_final_states=True)
    states = given.pop("initial_states")
    given.pop("reset")
    for t in range(5):
        now = {name: given[name][:, t] for name in ("x", "dt", "B", "C", "z")}
        out, states = ssd_step(states, **{**given, **now})
        torch.testing.assert_close(out, y[:, t])
    torch.testing.assert_close(states, last)


def test_half_precision_is_computed_in_float32() -> None:
    given = make_operands(Case(length=100, dtype=torch.bfloat16, z=True))
    y, last = ssd(**given, return_final_states=True)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    wide = {
        name: x.float() if torch.is_tensor(x) and x.is_floating_point() else x
        for name, x in given.items()
    }
    assert torch.equal(y, ssd(**wide).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssd(**given), y)

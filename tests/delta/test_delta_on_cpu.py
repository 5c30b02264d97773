"""The backends of the delta rule against float64 autograd of the recurrence, step by step."""

import dataclasses
import math
from functools import partial
from typing import Any

import pytest
import torch
from delta_cases import Case, errors_of, make_operands, precise, relative_error, tolerance
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from keelback.delta import delta_rule, delta_rule_step
from keelback.delta.chunked import blocks
from keelback.delta.reference import delta_rule_reference, delta_rule_step_reference

DOUBLE = torch.float64
#: "cpu" computes in float32; the chunks take float64 on every device.
BACKENDS = ("cpu", "chunked")
CASES = {
    "default": Case(),
    "double": Case(dtype=DOUBLE),
    "one_step": Case(batch=1, length=1, heads=1, groups=1, initial=True),
    "one_step_of_a_chunk_more": Case(length=65, initial=True),
    "whole_chunks": Case(length=128, initial=True),
    "no_multiple_of_the_chunk": Case(length=147, initial=True, reset=0.05),
    "one_group": Case(heads=4, groups=1, initial=True),
    "grouped": Case(heads=6, groups=2, reset=0.05, initial=True, dtype=DOUBLE),
    "odd_head_sizes": Case(length=90, key=19, value=45, heads=3, groups=3, initial=True),
    "wide_values": Case(length=40, key=24, value=130),
    "wide_keys": Case(length=40, key=130, value=24, by_channel=True),
    "size_one": Case(length=40, key=1, value=1, initial=True, by_channel=True, normalise=False),
    "given_scale": Case(normalise=False, scale=2.5),
    "beta_zero": Case(beta=0.0, initial=True),
    "beta_one_replaces": Case(beta=1.0, initial=True, normalise=False, decay=0.0),
    "beta_two_reflects": Case(beta=2.0, initial=True, normalise=False, decay=0.0),
    "no_decay": Case(decay=0.0, initial=True),
    "decays_that_underflow": Case(decay=500.0, initial=True),
    "decays_beyond_float32": Case(decay=1e6, initial=True),
    "resets_at_every_step": Case(reset=1.1, initial=True),
    "resets": Case(length=150, reset=0.1, initial=True, dtype=DOUBLE),
}
BY_CHANNEL = {
    f"{name}_by_channel": dataclasses.replace(case, by_channel=True) for name, case in CASES.items()
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [*CASES, *BY_CHANNEL])
def test_outputs_and_gradients_are_those_of_the_reference(name: str, backend: str) -> None:
    case = (CASES | BY_CHANNEL)[name]
    errors = errors_of(case, partial(delta_rule, backend=backend))
    for error in errors.values():
        assert error < tolerance(case), errors


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=25, deadline=None)
@drawn(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 140), st.integers(1, 3), st.integers(1, 2)),
    key=st.integers(1, 40),
    value=st.integers(1, 40),
    flags=st.tuples(*[st.booleans()] * 3),
    reset=st.sampled_from([0.0, 0.1, 0.9]),
    single=st.booleans(),
)
def test_any_sizes_and_options(
    backend: str,
    sizes: tuple[int, ...],
    key: int,
    value: int,
    flags: tuple[bool, ...],
    reset: float,
    single: bool,
) -> None:
    batch, length, heads, groups = sizes
    by_channel, normalise, initial = flags
    # Of one number, only the sign is left by the norm: its gradient cancels almost to zero.
    key = max(key, 2) if normalise else key
    dtype = torch.float32 if single else DOUBLE
    case = Case(batch, length, heads * groups, value, groups, key, dtype, by_channel)
    case = dataclasses.replace(case, normalise=normalise, initial=initial, reset=reset)
    errors = errors_of(case, partial(delta_rule, backend=backend))
    for error in errors.values():
        assert error < (2e-5 if single else 1e-11), errors


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("starts", [[0], [64], [63, 65], [3, 20, 60], [64, 80, 128], [130]])
def test_sequences_may_start_anywhere_in_a_segment(
    starts: list[int], by_channel: bool, backend: Any
) -> None:
    """The backward pass computes the states of a segment of 64 steps again, from its start."""

    given = make_operands(Case(length=150, initial=True, by_channel=by_channel))
    exact = precise(given)
    leaves = [x.requires_grad_() for x in given.values() if torch.is_tensor(x)]
    given["reset"] = exact["reset"] = torch.zeros(2, 150, dtype=torch.bool)
    given["reset"][0, starts] = True
    wanted = [x for x in exact.values() if torch.is_tensor(x) and x.requires_grad]
    expected = torch.autograd.grad(_weighted(delta_rule_reference(**exact)), wanted)
    results = delta_rule(**given, return_final_states=True, backend=backend)
    found = torch.autograd.grad(_weighted(results), leaves)
    for gradient, other in zip(found, expected, strict=True):
        assert relative_error(gradient, other) < 5e-6


def _weighted(results: tuple[Tensor, Tensor]) -> Tensor:
    """A number that depends on every output and last state, by weights of its own."""
    generator = torch.Generator().manual_seed(3)
    return sum(  # type: ignore[return-value]
        (x * torch.randn(x.shape, generator=generator, dtype=torch.float64)).sum() for x in results
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_operands_with_gaps_and_of_one_result_alone(backend: Any) -> None:
    given = make_operands(Case(length=70, heads=4, initial=True))
    wide = {name: x for name, x in given.items() if torch.is_tensor(x)}
    gaps = {name: torch.stack([x, x], -2)[..., 0, :] for name, x in wide.items()}
    assert not any(x.is_contiguous() for x in gaps.values())
    for which in (0, 1):
        exact = precise(given)
        wanted = [exact[name] for name in wide]
        expected = torch.autograd.grad(
            delta_rule_reference(**exact)[which].sum(), wanted, allow_unused=True
        )
        leaves = {name: x.detach().requires_grad_() for name, x in gaps.items()}
        results = delta_rule(**{**given, **leaves}, return_final_states=True, backend=backend)
        found = torch.autograd.grad(results[which].sum(), list(leaves.values()))
        for gradient, other in zip(found, expected, strict=True):
            if other is None:
                assert not gradient.any()
            else:
                assert relative_error(gradient, other) < 1e-5


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("at_a_time", [1, 1 << 13, 1 << 30])
def test_what_is_worked_on_at_a_time_changes_nothing(
    at_a_time: int, by_channel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "NUMBERS_AT_A_TIME", at_a_time)
    case = Case(2, 300, initial=True, reset=0.02, dtype=DOUBLE, by_channel=by_channel)
    errors = errors_of(case, delta_rule)
    for error in errors.values():
        assert error < tolerance(case), errors


def test_a_beta_of_one_replaces_what_stands_along_a_unit_key() -> None:
    given = make_operands(Case(beta=1.0, normalise=False, decay=0.0, initial=True, dtype=DOUBLE))
    _, last = delta_rule(**given, return_final_states=True)
    read = (given["k"][:, -1].unsqueeze(-1) * last).sum(-2)
    torch.testing.assert_close(read, given["v"][:, -1])


def test_a_beta_of_two_keeps_the_norm_of_a_state_without_values() -> None:
    given = make_operands(Case(beta=2.0, normalise=False, decay=0.0, initial=True, dtype=DOUBLE))
    given["v"] = torch.zeros_like(given["v"])
    _, last = delta_rule(**given, return_final_states=True)
    torch.testing.assert_close(last.norm(dim=(-2, -1)), given["initial_states"].norm(dim=(-2, -1)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_that_are_all_alike_do_not_cancel(backend: Any) -> None:
    """The powers of a chunk's matrix reach 1e18 here, and its inverse has ones."""
    given = make_operands(Case(batch=1, length=192, beta=1.0, decay=0.0, normalise=False))
    given["k"] = given["k"][:, :1].expand_as(given["k"]).contiguous()
    exact, _ = delta_rule_reference(**precise(given))
    assert relative_error(delta_rule(**given, backend=backend), exact) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("by_channel", [False, True])
def test_steep_decays_leave_what_comes_after_them_exact(by_channel: bool, backend: Any) -> None:
    given = make_operands(Case(batch=1, length=128, by_channel=by_channel))
    given["g"] = torch.full_like(given["g"], -1e-3)
    given["g"][:, ::40] = -5e5
    exact, _ = delta_rule_reference(**precise(given))
    assert relative_error(delta_rule(**given, backend=backend), exact) < 1e-6


def test_a_log_decay_of_minus_infinity_is_a_decay_of_zero() -> None:
    given = make_operands(Case(initial=True))
    given["g"][:, 30] = -math.inf
    exact, last = delta_rule_reference(**precise(given))
    y, found = delta_rule(**given, return_final_states=True)
    assert relative_error(y, exact) < 1e-6
    assert relative_error(found, last) < 1e-6


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_that_grows_overflows_in_no_chunk_before(backend: Any) -> None:
    given = make_operands(Case(batch=1, length=200, initial=True))
    given["g"][:, 130:] = 10.0
    y, last = delta_rule(**given, return_final_states=True, backend=backend)
    assert not torch.isfinite(last).any()
    expected, _ = delta_rule_reference(**precise(given))
    assert relative_error(y[:, :128], expected[:, :128]) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_at_a_step_is_in_no_output_before_its_chunk(backend: Any) -> None:
    given = make_operands(Case(batch=1, length=200))
    clean = delta_rule(**given, backend=backend)
    given["v"][:, 150] = math.nan
    y = delta_rule(**given, backend=backend)
    before = 150 // blocks.CHUNK * blocks.CHUNK
    assert torch.equal(y[:, :before], clean[:, :before])
    assert y[:, 150:].isnan().all()


@pytest.mark.parametrize(("batch", "length"), [(0, 10), (2, 0)])
def test_an_empty_delta_rule_returns_the_initial_states(batch: int, length: int) -> None:
    given = make_operands(Case(batch=batch, length=length, initial=True))
    leaves = [x.requires_grad_() for x in given.values() if torch.is_tensor(x)]
    y, last = delta_rule(**given, return_final_states=True)
    assert y.shape == (batch, length, 2, 16)
    assert torch.equal(last, given["initial_states"])
    gradients = torch.autograd.grad(last.sum() + y.sum(), leaves)
    for leaf, gradient in zip(leaves[:-1], gradients[:-1], strict=True):
        assert not gradient.any(), leaf.shape
    assert (gradients[-1] == 1).all()


@pytest.mark.parametrize("key", [0, 3])
def test_a_head_without_keys_or_values_gives_zeros(key: int) -> None:
    given = make_operands(Case(key=key, value=3 - key, initial=True, normalise=False))
    y, last = delta_rule(**given, return_final_states=True)
    assert y.shape == given["v"].shape
    assert not y.any()
    assert torch.equal(last, given["initial_states"])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_in_two_parts_is_at_once(dtype: torch.dtype) -> None:
    given = make_operands(Case(length=150, dtype=dtype))
    whole, whole_last = delta_rule(**given, return_final_states=True)

    def part(steps: slice, start: Tensor | None) -> Any:
        sequences = {name: given[name][:, steps] for name in ("q", "k", "v", "g", "beta")}
        arguments = {**given, **sequences, "initial_states": start}
        return delta_rule(**arguments, return_final_states=True)

    first, middle = part(slice(0, 37), None)
    second, last = part(slice(37, None), middle)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, whole_last)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_packed_sequences_are_run_one_by_one(dtype: torch.dtype) -> None:
    given = make_operands(Case(batch=1, length=140, dtype=dtype))
    bounds = torch.tensor([0, 3, 3, 90, 140])
    packed = delta_rule(**given, cu_seqlens=bounds)
    numbers = torch.bucketize(torch.arange(140), bounds[1:], right=True)[None]
    assert torch.equal(delta_rule(**given, seq_idx=numbers), packed)
    for start, stop in ((0, 3), (3, 90), (90, 140)):
        one = {name: given[name][:, start:stop] for name in ("q", "k", "v", "g", "beta")}
        torch.testing.assert_close(packed[:, start:stop], delta_rule(**{**given, **one}))


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_steps_are_those_of_the_delta_rule(by_channel: bool, dtype: torch.dtype) -> None:
    case = Case(length=5, heads=6, by_channel=by_channel, initial=True, dtype=dtype)
    given = make_operands(case)
    y, last = delta_rule(**given, return_final_states=True)
    states = given.pop("initial_states")
    given.pop("reset")
    for t in range(5):
        now = {name: given[name][:, t] for name in ("q", "k", "v", "g", "beta")}
        before = states.clone()
        out, after = delta_rule_step(states, **{**given, **now})
        assert torch.equal(states, before)
        expected, _ = delta_rule_step_reference(**{**given, **now}, states=states)
        torch.testing.assert_close(out, y[:, t])
        torch.testing.assert_close(out, expected)
        states = after
    torch.testing.assert_close(states, last)


def test_a_step_has_gradients() -> None:
    given = make_operands(Case(batch=1, length=1, heads=4, initial=True, dtype=DOUBLE))
    names = ("q", "k", "v", "g", "beta")
    leaves = [given[name][:, 0].requires_grad_() for name in names]
    start = given["initial_states"].requires_grad_()

    def run(states: Tensor, *now: Tensor) -> Any:
        return delta_rule_step(states, *now, normalise=True)

    assert torch.autograd.gradcheck(run, (start, *leaves), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    given = make_operands(Case(length=100, dtype=dtype, initial=True))
    y, last = delta_rule(**given, return_final_states=True)
    assert (y.dtype, last.dtype) == (dtype, torch.float32)
    wide = {
        name: x.float() if torch.is_tensor(x) and x.is_floating_point() else x
        for name, x in given.items()
    }
    assert torch.equal(y, delta_rule(**wide).to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(delta_rule(**given), y)
    errors = errors_of(Case(length=100, dtype=dtype, initial=True), delta_rule)
    assert max(errors.values()) < tolerance(Case(dtype=dtype)), errors

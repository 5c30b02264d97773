"""The CUDA source, compiled for the host and run thread by thread, against float64 autograd."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from delta_cases import Case, errors_of, make_operands, relative_error, tolerance
from delta_host import AMPERE, COMPILER, DESKTOP, HOPPER, delta_rule_by_kernels, on_host

from keelback.compiled.layouts import layouts_of, signature_of
from keelback.delta._operands import DeltaSizes, Operands
from keelback.delta.chunked.call import ChunkedDelta
from keelback.delta.cuda import launch, prepare_step
from keelback.delta.cuda.plan import Traits, plan_of
from keelback.delta.reference import delta_rule_step_reference

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="needs g++"),
]

BF16, FP16 = torch.bfloat16, torch.float16
SMALL = Case(batch=1, length=70, heads=1, groups=1, key=64, value=64, dtype=BF16)
#: With all options; with slow decays, where the inverse counts; one step; float32, whose chunks are
#: half as long; states that grow; a chunk that is full; more chunks than are under way at once.
CASES = [
    replace(SMALL, length=130, heads=2, value=72, initial=True, reset=0.05, normalise=False),
    replace(SMALL, decay=0.02, beta=1.0),
    replace(SMALL, length=1, dtype=FP16, scale=0.7),
    replace(SMALL, heads=2, decay=0.02, beta=2.0, dtype=torch.float32, initial=True, reset=0.05),
    replace(SMALL, length=64, key=32, value=16, decay=-0.01),
    replace(SMALL, length=330, decay=0.05),
]
#: With a decay per key channel, of which some are too strong to be split, all are, or none; without
#: any, where a step reflects; one step; states that grow.
BY_CHANNEL = replace(SMALL, by_channel=True)
CHANNELS = [
    replace(
        BY_CHANNEL,
        length=130,
        heads=4,
        groups=2,
        value=72,
        strong=-50.0,
        initial=True,
        reset=0.05,
        normalise=False,
    ),
    replace(BY_CHANNEL, decay=50.0, beta=1.0, initial=True),
    replace(BY_CHANNEL, key=128, value=128, length=64, decay=0.02, beta=1.0),
    replace(BY_CHANNEL, decay=0.0, beta=2.0, initial=True),
    replace(BY_CHANNEL, length=1, dtype=FP16, scale=0.7),
    replace(BY_CHANNEL, heads=2, dtype=FP16, decay=0.1, initial=True, reset=0.05),
    replace(BY_CHANNEL, length=64, key=32, value=16, decay=-0.01),
]
CASES += CHANNELS


@pytest.fixture(autouse=True)
def kernels_on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    on_host(monkeypatch.setattr, HOPPER)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_are_those_of_the_reference(case: Case) -> None:
    errors = errors_of(case, delta_rule_by_kernels)
    for error in errors.values():
        assert error < tolerance(case), errors


@pytest.mark.parametrize("by_channel", [False, True])
def test_warps_multiply_where_warpgroups_cannot(
    monkeypatch: pytest.MonkeyPatch, by_channel: bool
) -> None:
    on_host(monkeypatch.setattr, AMPERE)
    case = replace(
        SMALL, heads=2, initial=True, reset=0.05, decay=0.05, by_channel=by_channel, strong=-9.0
    )
    errors = errors_of(case, delta_rule_by_kernels)
    for error in errors.values():
        assert error < tolerance(case), errors


@pytest.mark.parametrize(
    "case",
    [
        replace(SMALL, key=128, value=128),
        replace(BY_CHANNEL, key=128, value=128, strong=-9.0),
        replace(SMALL, dtype=torch.float32),
    ],
    ids=str,
)
def test_blocks_with_less_shared_memory_take_less_at_a_time(
    monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    on_host(monkeypatch.setattr, DESKTOP)
    case = replace(case, heads=2, initial=True, reset=0.05, decay=0.05)
    errors = errors_of(case, delta_rule_by_kernels)
    for error in errors.values():
        assert error < tolerance(case), errors


@pytest.mark.parametrize("by_channel", [False, True])
def test_segments_of_the_length_change_nothing(
    monkeypatch: pytest.MonkeyPatch, by_channel: bool
) -> None:
    plan_of = launch.plan_of

    def in_segments(*arguments: Any) -> Any:
        plan = plan_of(*arguments)
        return plan and replace(plan, segments=2)

    monkeypatch.setattr(launch, "plan_of", in_segments)
    case = replace(SMALL, length=150, initial=True, decay=0.02, by_channel=by_channel)
    errors = errors_of(case, delta_rule_by_kernels)
    for error in errors.values():
        assert error < tolerance(case), errors


def test_float32_has_kernels_for_as_many_keys_as_a_block_has_room_for() -> None:
    sizes = DeltaSizes(batch=1, length=64, heads=1, value=128, groups=1, key=128)
    traits = Traits(torch.float32, torch.float32, torch.float32, 3, True, True)
    for card, most in ((HOPPER, 128), (AMPERE, 128), (DESKTOP, 64)):
        for key in (64, 128):
            found = plan_of(replace(sizes, key=key), traits, card)
            assert (found is not None) == (key <= most)


@pytest.mark.parametrize(
    "case",
    [
        replace(SMALL, dtype=torch.float64),
        replace(BY_CHANNEL, dtype=torch.float32),
        replace(BY_CHANNEL, key=40),
        replace(BY_CHANNEL, batch=0),
        replace(SMALL, key=160),
        replace(SMALL, key=40),
        replace(SMALL, value=12),
        replace(SMALL, value=264),
        replace(SMALL, length=0),
    ],
    ids=str,
)
def test_what_has_no_kernels_is_computed_by_chunks(case: Case) -> None:
    given = make_operands(case)
    normalise, _ = given.pop("normalise"), given.pop("scale")
    call = launch.prepare(signature_of(given.values()), (normalise, False, 1.0))
    assert type(call) is ChunkedDelta
    operands = tuple(given.values())
    y, last, *_ = call.forward(operands, False)
    assert y.dtype == case.dtype
    assert last.dtype == (torch.float64 if case.dtype == torch.float64 else torch.float32)
    gradients = call.backward((y, last), (None, None), operands)
    for x, gradient in zip(operands[:5], gradients, strict=False):
        assert gradient.dtype == x.dtype
        assert gradient.shape == x.shape


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("key", [20, 128])
def test_a_step_is_that_of_the_reference(key: int, dtype: torch.dtype, by_channel: bool) -> None:
    case = replace(
        SMALL, length=1, heads=4, groups=2, key=key, value=44, dtype=dtype, by_channel=by_channel
    )
    given = make_operands(replace(case, initial=True))
    now = [given[name][:, 0] for name in ("q", "k", "v", "g", "beta")]
    states = given["initial_states"]
    expected = delta_rule_step_reference(*(x.double() for x in (*now, states)), True, 0.3)
    layouts = layouts_of(signature_of((*now, states, None)))
    call = prepare_step(Operands(*layouts), True, 0.3)  # type: ignore[arg-type]
    assert call is not None
    found = call.forward((*now, states, None))
    assert found[0].dtype == dtype
    for ours, exact in zip(found, expected, strict=True):
        assert relative_error(ours, exact) < tolerance(case)

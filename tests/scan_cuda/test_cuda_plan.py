"""How scans are cut for a GPU."""

import pytest
import torch

from keelback.errors import InputError
from keelback.scan._operands import ScanSizes
from keelback.scan.cuda.backward import letters_fit
from keelback.scan.cuda.plan import (
    BACKWARD,
    FORWARD,
    Cutting,
    Traits,
    configuration_of,
    plan_of,
    states_over_threads,
)

H100_PROCESSORS = 132


def traits(batch: int, length: int, channels: int, states: int, groups: int = 1) -> Traits:
    sizes = ScanSizes(1, batch, length, channels, states, groups)
    return Traits(sizes, torch.float32, 4, 4, False, False, False, False, False, True)


@pytest.mark.parametrize("states", range(1, 257))
@pytest.mark.parametrize("least", [1, 2])
def test_threads_hold_every_state_once(states: int, least: int) -> None:
    per_thread, lanes = states_over_threads(states, least)
    assert per_thread >= min(least, states)
    assert lanes & (lanes - 1) == 0
    assert lanes <= 32
    assert states <= per_thread * lanes < 2 * states or per_thread * lanes == 1


@pytest.mark.parametrize("states", [0, 257])
def test_states_that_do_not_fit_are_refused(states: int) -> None:
    with pytest.raises(InputError, match=f"A has {states} states"):
        states_over_threads(states, 1)


@pytest.mark.parametrize("states", [1, 2, 4, 8, 16, 64, 256])
@pytest.mark.parametrize("channels", [1, 16, 30, 1536])
@pytest.mark.parametrize("cutting", [FORWARD, BACKWARD])
def test_blocks_are_whole_warps(states: int, channels: int, cutting: Cutting) -> None:
    configuration = configuration_of(traits(1, 100, channels, states), cutting)
    assert configuration.threads % 32 == 0
    assert configuration.threads <= 256
    assert configuration.tile % configuration.steps == 0


def test_enough_rows_are_not_cut() -> None:
    plan = plan_of(traits(8, 2048, 1536, 16), H100_PROCESSORS, FORWARD)
    assert plan.spans == 1
    assert plan.blocks == 8 * 48


@pytest.mark.parametrize(
    ("length", "channels"), [(32768, 1536), (1_000_000, 16), (1_000_003, 16), (1_000_003, 1536)]
)
def test_a_long_sequence_fills_the_card_and_is_covered(length: int, channels: int) -> None:
    plan = plan_of(traits(1, length, channels, 16), H100_PROCESSORS, FORWARD)
    threads = plan.blocks * plan.configuration.threads
    assert threads >= 0.9 * H100_PROCESSORS * 384
    assert (
        plan.blocks * (plan.spans - 1) // plan.spans * plan.configuration.threads
        <= 2 * H100_PROCESSORS * 384
    )
    assert (plan.spans - 1) * plan.span_length < length <= plan.spans * plan.span_length
    assert plan.span_length % plan.configuration.tile == 0


@pytest.mark.parametrize(("length", "states_per_thread"), [(500, 1), (2000, 2)])
def test_threads_hold_fewer_states_where_spans_would_be_short(
    length: int, states_per_thread: int
) -> None:
    plan = plan_of(traits(256, length, 16, 4), H100_PROCESSORS, BACKWARD)
    assert plan.configuration.states_per_thread == states_per_thread
    assert plan.span_length >= BACKWARD.short_span
    assert plan.blocks * plan.configuration.threads <= 1.2 * H100_PROCESSORS * 384


@pytest.mark.parametrize(
    ("shape", "dtype", "fit"),
    [
        ((256, 500, 16, 4), torch.float32, True),
        ((256, 2000, 16, 4), torch.float32, True),
        ((256, 2000, 16, 4), torch.bfloat16, False),
        ((1, 32768, 1536, 16), torch.float32, False),
    ],
)
def test_small_states_pass_between_spans_in_the_memory_of_gradients(
    shape: tuple[int, int, int, int], dtype: torch.dtype, fit: bool
) -> None:
    plan = plan_of(traits(*shape), H100_PROCESSORS, BACKWARD)
    assert plan.spans > 1
    assert letters_fit(plan, dtype) == fit


def test_a_forward_pass_is_cut_only_where_many_spans_are_needed() -> None:
    assert plan_of(traits(256, 2000, 16, 4), H100_PROCESSORS, FORWARD).spans == 1
    assert plan_of(traits(64, 2000, 16, 4), H100_PROCESSORS, FORWARD).spans == 1
    assert plan_of(traits(64, 8000, 16, 4), H100_PROCESSORS, FORWARD).spans > 1


def test_blocks_stay_within_a_group() -> None:
    plan = plan_of(traits(2, 100, 96, 16, groups=3), H100_PROCESSORS, FORWARD)
    assert plan.blocks_per_group == 1
    assert plan.blocks == 2 * 3

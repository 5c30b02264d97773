"""How forward passes of scans by heads are cut for a GPU."""

from dataclasses import replace

import pytest
import torch
from host import AMPERE, DESKTOP, HOPPER

from keelback.compiled.cuda_card import Card
from keelback.ssd._operands import SsdSizes
from keelback.ssd.cuda.configuration import WalkConfiguration
from keelback.ssd.cuda.launch import _fits
from keelback.ssd.cuda.plan import Traits, forward_plan

BF16 = torch.bfloat16
SIZES = SsdSizes(batch=2, length=4096, heads=24, head_dim=64, groups=1, states=128)
TRAITS = Traits(BF16, BF16, 1, True, False, False, False, False)


def walks(sizes: SsdSizes = SIZES, traits: Traits = TRAITS, card=HOPPER) -> bool:  # type: ignore[no-untyped-def]
    return isinstance(forward_plan(sizes, traits, card).outputs, WalkConfiguration)


def test_hopper_walks_where_a_warpgroup_has_all_states_of_a_tile_of_a_head() -> None:
    assert walks()
    assert walks(replace(SIZES, head_dim=128, states=64))
    assert not walks(card=AMPERE)
    assert not walks(replace(SIZES, states=256))
    assert not walks(replace(SIZES, head_dim=80))
    assert not walks(traits=replace(TRAITS, dtype=torch.float32, planes=3))


@pytest.mark.parametrize("length", [64, 1000, 131072])
@pytest.mark.parametrize("heads", [1, 3, 24, 200])
def test_segments_hold_every_chunk_once(length: int, heads: int) -> None:
    plan = forward_plan(replace(SIZES, batch=1, length=length, heads=heads), TRAITS, HOPPER)
    segments, chunks = plan.states.segments, plan.states.chunks_per_segment
    assert (segments - 1) * chunks < plan.cut.chunks <= segments * chunks


def test_one_long_sequence_fills_the_card() -> None:
    plan = forward_plan(replace(SIZES, batch=1, length=131072), TRAITS, HOPPER)
    blocks = plan.states.segments * plan.states.blocks_of_segment(plan.cut)
    assert HOPPER.processors * 0.8 < blocks <= HOPPER.processors


@pytest.mark.parametrize(("card", "states"), [(HOPPER, 256), (AMPERE, 128), (DESKTOP, 64)])
def test_float32_has_kernels_for_as_many_states_as_a_block_has_room_for(
    card: Card, states: int
) -> None:
    for head_dim in (16, 64, 128, 256):
        shape = replace(SIZES, head_dim=head_dim)
        for count in (16, 64, 128, 256):
            assert _fits(replace(shape, states=count), BF16, card)
            fits = _fits(replace(shape, states=count), torch.float32, card)
            assert fits == (count <= states), (head_dim, count)

"""Time versions of the scan by heads on a GPU, kernel by kernel.

    python tools/ssd_versions.py --shapes 3 --out versions.json

A version names how its plans are cut; the numbers are microseconds on the GPU, by PyTorch's
profiler, means over some calls. Each version's results are compared with the first one's.
"""

import argparse
import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile

from keelback.benchmarks.ssd_peers import SsdInputs, SsdShape, make_inputs
from keelback.benchmarks.ssd_speed import SHAPES
from keelback.compiled.cuda_card import Card, card_of, planes_of
from keelback.compiled.cuda_operands import layout_of
from keelback.compiled.layouts import layouts_of, signature_of
from keelback.errors import JobError
from keelback.ssd._operands import Operands
from keelback.ssd.cuda.backward import BackwardPass
from keelback.ssd.cuda.configuration import OutputsConfiguration, Tiles
from keelback.ssd.cuda.forward import ForwardPass
from keelback.ssd.cuda.launch import CudaSsd
from keelback.ssd.cuda.plan import (
    OUTPUTS_PROLOGUE,
    BackwardPlan,
    Cut,
    ForwardPlan,
    StatesPlan,
    backward_cut,
    backward_plan,
    chunks_plan,
    heads_of_subset,
    launches_of,
    states_configuration,
    states_plan,
    walk_plan,
)
from result_file import add_options, started, write

CALLS = 5


@dataclasses.dataclass(frozen=True)
class Version:
    """How a pass is cut; None leaves it to the plan."""

    name: str
    back: bool = False
    chunk: int | None = None
    stages: int | None = None
    blocks: int = 1
    wide: bool = True
    rows: int | None = None
    heads: int | None = None
    states_stages: int | None = None
    states_blocks: int = 1
    segments: int | None = None
    launches: int | None = None
    straight: bool = True
    walks: bool = False


VERSIONS = [
    Version("forward", walks=True),
    Version("forward, 2 stages", walks=True, stages=2),
    Version("forward, in 2 segments", walks=True, segments=2),
    Version("forward, in 4 segments", walks=True, segments=4),
    Version("forward, by chunks"),
    Version("forward, by chunks, branching", straight=False),
    Version("forward, by chunks, 1 stage", stages=1),
    Version("forward, by chunks, states of 4 heads", rows=64, heads=4, states_stages=3),
    Version("forward, by chunks, states by 64 steps, 5 stages", rows=64, states_stages=5),
    Version("forward, by chunks, states in 2 segments", segments=2),
    Version("forward, by chunks, chunk 64", chunk=64, rows=64, states_stages=5),
    Version("forward, by chunks and warps", wide=False),
    Version("backward", back=True),
    Version("backward, 1 launch", back=True, launches=1),
    Version("backward, 3 launches", back=True, launches=3),
    Version("backward, 1 launch, 3 stages", back=True, launches=1, stages=3),
    Version("backward, states of 4 heads", back=True, launches=1, heads=4, states_stages=3),
    Version("backward, by warps", back=True, wide=False),
]


def _states(version: Version, cut: Cut, tiles: Tiles, card: Card) -> StatesPlan:
    old = states_configuration(tiles, cut.shape.heads_per_group, card)
    tiles, per_head = old.tiles, old.warps // old.heads
    heads = version.heads or old.heads
    configuration = dataclasses.replace(
        old,
        tiles=tiles,
        rows=min(version.rows or old.rows, tiles.chunk),
        heads=heads,
        warps=per_head * heads,
        stages=version.states_stages or old.stages,
        blocks_per_processor=version.states_blocks,
    )
    found = states_plan(cut, configuration, 2 if version.back else 1, card)
    return _in_segments(version, cut, found)


def _in_segments(version: Version, cut: Cut, found: StatesPlan) -> StatesPlan:
    if not version.segments:
        return found
    length = -(-cut.chunks // version.segments)
    return StatesPlan(found.configuration, -(-cut.chunks // length), length)


def _tiles(version: Version, tiles: Tiles, chunk: int) -> Tiles:
    return dataclasses.replace(tiles, chunk=chunk, wide=version.wide and tiles.wide)


def forward_of(version: Version, scan: CudaSsd, card: Card) -> ForwardPlan:
    """The plan of a version of the forward pass."""
    sizes, traits = scan.sizes, scan.traits(planes_of(scan.given.x.dtype))
    if version.walks:
        walk = walk_plan(sizes, traits, card)
        if walk is None:
            raise JobError("these sizes have no walk")
        stages = version.stages or walk.outputs.stages
        return dataclasses.replace(
            walk,
            states=_in_segments(version, walk.cut, walk.states),
            outputs=dataclasses.replace(walk.outputs, stages=stages),
        )
    plan = chunks_plan(sizes, traits, card)
    assert isinstance(plan.outputs, OutputsConfiguration)
    chunk = version.chunk or plan.cut.chunk
    tiles = _tiles(version, plan.outputs.tiles, chunk)
    outputs = dataclasses.replace(
        plan.outputs,
        tiles=tiles,
        stages=version.stages or plan.outputs.stages,
        blocks_per_processor=version.blocks,
        straight=version.straight,
    )
    cut = dataclasses.replace(plan.cut, chunk=chunk)
    blocks = sizes.batch * cut.chunks * sizes.groups
    resident = card.processors * version.blocks
    heads = heads_of_subset(blocks, sizes.heads_per_group, resident, OUTPUTS_PROLOGUE)
    cut = dataclasses.replace(cut, heads=heads, subsets=-(-sizes.heads_per_group // heads))
    states = _states(version, cut, tiles, card)
    return ForwardPlan(cut, dataclasses.replace(plan.steps, tiles=tiles), states, outputs)


def backward_of(version: Version, scan: CudaSsd, card: Card) -> BackwardPlan:
    """The plan of a version of the backward pass."""
    sizes = scan.sizes
    plan = backward_plan(sizes, scan.traits(planes_of(scan.given.x.dtype)), card)
    chunk = version.chunk or plan.cut.chunk
    tiles = _tiles(version, plan.gradients.tiles, chunk)
    gradients = dataclasses.replace(
        plan.gradients,
        tiles=tiles,
        split=1 if tiles.wide else 2,
        stages=version.stages or plan.gradients.stages,
        blocks_per_processor=version.blocks,
    )
    blocks = sizes.batch * -(-sizes.length // chunk) * sizes.groups
    launches = version.launches or launches_of(sizes, tiles)
    cut = backward_cut(sizes, tiles, launches, blocks, card.processors * version.blocks)
    states = _states(version, cut, tiles, card)
    steps = dataclasses.replace(plan.steps, tiles=tiles)
    return BackwardPlan(cut, steps, states, plan.gate, gradients)


def run_of(
    version: Version, inputs: SsdInputs, card: Card
) -> tuple[Callable[[], Sequence[Any]], ForwardPlan | BackwardPlan]:
    """A pass by a version's plan, and the plan."""
    operands = (*inputs.operands[:6], None, inputs.dt_bias, None, None)
    layouts: Any = Operands(*layouts_of(signature_of(operands)))
    scan = CudaSsd(layouts, (True, 0.0, float("inf")))
    given = scan.taken(operands)
    if version.back:
        plan = backward_of(version, scan, card)
        back = BackwardPass(scan, plan, layout_of(inputs.dy), False)
        return lambda: back.run(given, inputs.dy, None), plan
    ahead = forward_of(version, scan, card)
    forward = ForwardPass(scan, ahead)
    return lambda: forward.run(given), ahead


def microseconds(run: Callable[[], object]) -> dict[str, float]:
    """Of each kernel, and of all."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(CALLS):
            run()
        torch.cuda.synchronize()
    events: EventList = profiled.events()
    found: dict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type == torch._C._autograd.DeviceType.CUDA:
            name = event.name if event.name.startswith("keelback_") else "other"
            found[name] += event.device_time / CALLS
    return dict(found) | {"sum": sum(found.values())}


def rows_of(shape: SsdShape, dtype: torch.dtype) -> list[dict[str, Any]]:
    """A row per version on one shape."""
    inputs = make_inputs(shape, "cuda", dtype)
    card = card_of(torch.device("cuda", 0))
    first: dict[bool, list[Any]] = {}
    rows = []
    for version in VERSIONS:
        begun = time.perf_counter()
        row: dict[str, Any] = {**shape.__dict__, "dtype": str(dtype)[6:], "version": version.name}
        try:
            run, plan = run_of(version, inputs, card)
            results = [x for x in run() if x is not None]
            expected = first.setdefault(version.back, results)
            row["differs"] = max(
                float((x.double() - y.double()).norm() / y.double().norm())
                for x, y in zip(results, expected, strict=True)
            )
            row["us"] = microseconds(run)
            cut = plan.cut
            row["cut"] = {
                "heads": cut.heads,
                "subsets": cut.subsets,
                "launches": cut.launches,
                "segments": plan.states.segments,
            }
        except Exception as error:  # A version may not fit the card: the row says so.
            row["error"] = repr(error)[:300]
        row["seconds"] = time.perf_counter() - begun
        rows.append(row)
        print(row, flush=True)
    return rows


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--shapes", type=int, default=None, help="the first so many of bench ssd")
    add_options(options)
    return options


def main() -> None:
    """Read the command line and measure."""
    given = parser().parse_args()
    record = started(given)
    rows = [row for one in SHAPES["cuda"][: given.shapes] for row in rows_of(one, torch.bfloat16)]
    write(given, record, {"rows": rows})


if __name__ == "__main__":
    main()

"""Time versions of the scan by heads on a GPU, kernel by kernel: `python tools/ssd_versions.py OUT.json`.

A version names how its plans are cut; the numbers are microseconds on the GPU, by PyTorch's
profiler, means over some calls. Each version's results are compared with the first one's.
"""

import dataclasses
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from keelback.benchmarks.ssd_peers import SsdInputs, SsdShape, make_inputs
from keelback.benchmarks.ssd_speed import SHAPES
from keelback.ssd.cuda.backward import run_backward
from keelback.ssd.cuda.configuration import Tiles
from keelback.ssd.cuda.forward import run_forward
from keelback.ssd.cuda.operands import Operands, aligned
from keelback.ssd.cuda.operator import card_of, traits_of
from keelback.ssd.cuda.plan import (
    BackwardPlan,
    Card,
    Cut,
    ForwardPlan,
    StatesPlan,
    Traits,
    OUTPUTS_PROLOGUE,
    backward_cut,
    backward_plan,
    forward_plan,
    heads_of_subset,
    launches_of,
    states_configuration,
    states_plan,
)
from keelback.sweeps.provenance import provenance

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


VERSIONS = [
    Version("forward"),
    Version("forward, branching", straight=False),
    Version("forward, 1 stage", stages=1),
    Version("forward, states of 4 heads", rows=64, heads=4, states_stages=3),
    Version("forward, states by 64 steps, 5 stages", rows=64, states_stages=5),
    Version("forward, states in 2 segments", segments=2),
    Version("forward, chunk 64", chunk=64, rows=64, states_stages=5),
    Version("backward", back=True),
    Version("backward, 1 launch", back=True, launches=1),
    Version("backward, 3 launches", back=True, launches=3),
    Version("backward, 1 launch, 3 stages", back=True, launches=1, stages=3),
    Version("backward, 1 launch, states of 4 heads", back=True, launches=1, heads=4, states_stages=3),
    Version("backward, by warps", back=True, wide=False),
]


def operands_of(inputs: SsdInputs) -> Operands:
    given = Operands(
        *inputs.operands[:6], None, inputs.dt_bias, None, None, True, (0.0, float("inf"))
    )
    return aligned(given)


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
    if version.segments:
        length = -(-cut.chunks // version.segments)
        found = StatesPlan(configuration, -(-cut.chunks // length), length)
    return found


def _tiles(version: Version, tiles: Tiles, chunk: int) -> Tiles:
    return dataclasses.replace(tiles, chunk=chunk, wide=version.wide and tiles.wide)


def forward_of(version: Version, given: Operands, traits: Traits, card: Card) -> ForwardPlan:
    plan, shape = forward_plan(given.shape, traits, card), given.shape
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
    blocks = shape.batch * cut.chunks * shape.groups
    resident = card.processors * version.blocks
    heads = heads_of_subset(blocks, shape.heads_per_group, resident, OUTPUTS_PROLOGUE)
    cut = dataclasses.replace(cut, heads=heads, subsets=-(-shape.heads_per_group // heads))
    states = _states(version, cut, tiles, card)
    return ForwardPlan(cut, dataclasses.replace(plan.steps, tiles=tiles), states, outputs)


def backward_of(version: Version, given: Operands, traits: Traits, card: Card) -> BackwardPlan:
    plan, shape = backward_plan(given.shape, traits, card), given.shape
    chunk = version.chunk or plan.cut.chunk
    tiles = _tiles(version, plan.gradients.tiles, chunk)
    split = 1 if tiles.wide else 2
    gradients = dataclasses.replace(
        plan.gradients,
        tiles=tiles,
        split=split,
        stages=version.stages or plan.gradients.stages,
        blocks_per_processor=version.blocks,
    )
    blocks = shape.batch * -(-shape.length // chunk) * shape.groups
    launches = version.launches or launches_of(shape, tiles)
    cut = backward_cut(shape, tiles, launches, blocks, card.processors * version.blocks)
    states = _states(version, cut, tiles, card)
    steps = dataclasses.replace(plan.steps, tiles=tiles)
    return BackwardPlan(cut, steps, states, plan.gate, gradients)


def run_of(
    version: Version, inputs: SsdInputs, card: Card
) -> tuple[Callable[[], tuple[Any, ...]], Any]:
    given = operands_of(inputs)
    traits = traits_of(given)
    if version.back:
        plan = backward_of(version, given, traits, card)
        return lambda: run_backward(given, inputs.dy, None, plan), plan
    ahead = forward_of(version, given, traits, card)
    return lambda: run_forward(given, ahead), ahead


def microseconds(run: Callable[[], object]) -> dict[str, float]:
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(CALLS):
            run()
        torch.cuda.synchronize()
    found: dict[str, float] = defaultdict(float)
    for event in profiled.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            name = event.name if event.name.endswith("_kernel") else "other"
            found[name] += event.device_time / CALLS
    return dict(found) | {"sum": sum(found.values())}


def main(path: str, shapes: list[SsdShape], dtype: torch.dtype) -> None:
    rows = []
    for shape in shapes:
        inputs = make_inputs(shape, "cuda", dtype)
        card = card_of(torch.device("cuda", 0))
        first: dict[bool, tuple[Any, ...]] = {}
        for version in VERSIONS:
            begun = time.perf_counter()
            row: dict[str, Any] = {**shape.__dict__, "dtype": str(dtype), "version": version.name}
            try:
                run, plan = run_of(version, inputs, card)
                results = [x for x in run() if x is not None]
                expected = first.setdefault(version.back, results)
                row["differs"] = max(
                    float((x.double() - y.double()).norm() / y.double().norm())
                    for x, y in zip(results, expected, strict=True)
                )
                row["us"] = microseconds(run)
                row["cut"] = [plan.cut.heads, plan.cut.subsets, plan.cut.launches, plan.states.segments]
            except Exception as error:
                row["error"] = repr(error)[:300]
            row["seconds"] = time.perf_counter() - begun
            rows.append(row)
            print(json.dumps({k: row.get(k) for k in ("length", "version", "differs", "us", "cut", "error")}), flush=True)
            Path(path).write_text(
                json.dumps({"rows": rows, "provenance": provenance(command=" ".join(sys.argv))})
            )


if __name__ == "__main__":
    main(sys.argv[1], SHAPES["cuda"][: int(sys.argv[2]) if len(sys.argv) > 2 else None], torch.bfloat16)

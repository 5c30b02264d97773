"""Several processes, one GPU each, against one: training, and long scans."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keelback.benchmarks.benchmark import Benchmark, Found, Group
from keelback.benchmarks.long_scans import LongScan, LongScanByHeads, LongSequence
from keelback.benchmarks.parallel_scan import compare_scan
from keelback.benchmarks.parallel_training import TrainingSize, compare_training, loss_curve
from keelback.benchmarks.processes import on_processes, require_processes
from keelback.training import Place

#: The training of which loss curves are compared in float32.
SMALL = TrainingSize(d_model=32, n_layers=2, seq_len=64, batch=16, epochs=6)
#: The parts of the result, each a list of rows.
PARTS = ("loss_curves", "scaling", "scans", "scans_by_heads")


@dataclass(frozen=True)
class Sizes:
    """What to measure: no training without batches.

    Attributes:
        large: The training to time; its own batch does not count.
        batches: Examples a step and process.
        scans, scans_by_heads: The long sequences.
        repeats: Timed scans of each.
    """

    large: TrainingSize
    batches: Sequence[int]
    scans: Sequence[LongScan]
    scans_by_heads: Sequence[LongScanByHeads]
    repeats: int


def benchmark(processes: int, device: str, sizes: Sizes) -> Benchmark:
    """`loss_curve`, `compare_training` and `compare_scan` on as many processes of this machine.

    Measuring raises a JobError where a process fails.

    Raises:
        InputError: The device is unknown, or there are fewer GPUs than processes.
    """
    require_processes(processes, device)
    rows: dict[str, TrainingSize | LongSequence] = {}
    if sizes.batches:
        rows[f"loss curve of {SMALL.d_model} channels"] = SMALL
    for batch in sizes.batches:
        rows[f"training, {batch} examples per process"] = replace(sizes.large, batch=batch)
    for case in sizes.scans:
        rows[f"scan of {case.length} steps, A times {case.rate:g}"] = case
    for by_heads in sizes.scans_by_heads:
        name = f"scan by heads of {by_heads.length} steps, A times {by_heads.rate:g}"
        rows[name] = by_heads
    first = sizes.batches[0] if sizes.batches else None

    def measured(chosen: Sequence[TrainingSize | LongSequence]) -> Iterator[dict[str, Any]]:
        given = (processes, list(chosen), first, sizes.repeats)
        return on_processes(_measured, processes, device, *given)

    return Benchmark([Group(rows, measured)], _result, {"processes": processes})


def _measured(
    place: Place,
    processes: int,
    chosen: Sequence[TrainingSize | LongSequence],
    first: int | None,
    repeats: int,
) -> Iterator[dict[str, Any]]:
    """Of each of these the rows, by the part of the result that they belong to."""
    for one in chosen:
        if one == SMALL:
            yield {"loss_curves": [loss_curve(place, processes, SMALL)]}
        elif isinstance(one, TrainingSize):
            yield compare_training(place, processes, one, with_curve=one.batch == first)
        else:
            part = "scans_by_heads" if isinstance(one, LongScanByHeads) else "scans"
            yield {part: compare_scan(place, one, repeats)}


def _result(found: Found) -> dict[str, Any]:
    result: dict[str, list[Any]] = {}
    for parts in found.values():
        for part, rows in parts.items():
            result[part] = [*result.get(part, ()), *rows]
    return {part: result[part] for part in PARTS if part in result}

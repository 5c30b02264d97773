"""Several processes, one GPU each, against one: training, and long scans."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keelback.benchmarks.long_scans import LongScan, LongScanByHeads
from keelback.benchmarks.parallel_scan import compare_scan
from keelback.benchmarks.parallel_training import TrainingSize, compare_training
from keelback.benchmarks.processes import on_processes, require_processes
from keelback.training import Place

#: The training of which loss curves are compared in float32.
SMALL = TrainingSize(d_model=32, n_layers=2, seq_len=64, batch=16, epochs=6)


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


def compare_parallel(processes: int, device: str, sizes: Sizes) -> dict[str, Any]:
    """`compare_training` and `compare_scan` on as many processes of this machine.

    Raises:
        InputError: The device is unknown, or there are fewer GPUs than processes.
        JobError: A process failed.
    """
    require_processes(processes, device)
    found = on_processes(_compare, processes, device, processes, sizes)
    return {"processes": processes, **found}


def _compare(place: Place, processes: int, sizes: Sizes) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if sizes.batches:
        batches = list(sizes.batches)
        result |= compare_training(place, processes, SMALL, sizes.large, batches)
    for part, cases in (("scans", sizes.scans), ("scans_by_heads", sizes.scans_by_heads)):
        if cases:
            result[part] = [row for one in cases for row in compare_scan(place, one, sizes.repeats)]
    return result

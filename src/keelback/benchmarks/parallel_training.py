"""Data-parallel training of the Mamba stack: the loss curve of one process, and what it gains."""

import statistics
import sys
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch

from keelback.benchmarks.processes import alone
from keelback.data import get_task
from keelback.models import MambaClassifierConfig
from keelback.training import Place, Recipe, train


@dataclass(frozen=True)
class TrainingSize:
    """A Mamba stack and its training; `batch` examples a step."""

    d_model: int
    n_layers: int
    seq_len: int
    batch: int
    steps: int = 8
    epochs: int = 4
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Training:
    """The mean loss of each epoch, and how fast it went after the first one."""

    losses: list[float]
    steps_per_second: float


def trained(place: Place, size: TrainingSize) -> Training:
    """Train from the same start, on the same examples in the same order, wherever it is."""
    config = MambaClassifierConfig(vocab_size=2, d_model=size.d_model, n_layers=size.n_layers)
    model = config.build(torch.Generator().manual_seed(0))
    examples = get_task(
        "majority", seq_len=size.seq_len, n_train=size.batch * size.steps, n_test=1, data_seed=0
    )
    recipe = Recipe(
        epochs=size.epochs, batch_size=size.batch, learning_rate=1e-3, precision=size.precision
    )
    ends: list[float] = []

    def end_of_epoch(*_: int) -> None:
        if place.device.type != "cpu":
            torch.accelerator.synchronize()
        ends.append(time.perf_counter())

    [result] = train(
        [model], [examples.split("train")], recipe, [0], place=place, on_epoch=end_of_epoch
    )
    seconds = statistics.median(b - a for a, b in pairwise(ends))
    losses = [float(row["loss"] or "nan") for row in result.history[1:]]
    return Training(losses, size.steps / seconds)


def loss_curve(place: Place, processes: int, size: TrainingSize) -> dict[str, Any]:
    """How far the mean losses of an epoch are apart, of several processes and one.

    And of one and the same training again, since kernels add in any order. Empty in all processes
    but the first.
    """
    return _curve(place, processes, size, _one(place, size), trained(place, size))


def compare_training(
    place: Place, processes: int, size: TrainingSize, *, with_curve: bool
) -> dict[str, Any]:
    """One process against all of them, in the same processes one after the other.

    Args:
        place: All processes.
        processes: Their number.
        size: What to time; its batch is the examples a step and process.
        with_curve: Whether to compare loss curves too, of all processes' examples a step.

    Returns:
        `scaling`: steps a second; strong scaling keeps the examples of a step, weak scaling those
        of a process. `loss_curves` as of `loss_curve`, if wanted.
    """
    whole = replace(size, batch=processes * size.batch)
    one_part, one_whole = _one(place, size), _one(place, whole)
    many = trained(place, whole)
    scaling: list[dict[str, Any]] = []
    if one_part is not None and one_whole is not None:
        scaling = [
            _scaling("weak", processes, size.batch, one_part, many, gain=1),
            _scaling("strong", processes, whole.batch, one_whole, many, gain=processes),
        ]
        _report(*scaling)
    if not with_curve:
        return {"scaling": scaling}
    return {"loss_curves": [_curve(place, processes, whole, one_whole, many)], "scaling": scaling}


def _one(place: Place, size: TrainingSize) -> Training | None:
    """The training in the first process, while the others wait; None in those."""
    found: Training | None = alone(place, lambda: trained(Place(place.device), size))
    return found


def _curve(
    place: Place, processes: int, size: TrainingSize, one: Training | None, many: Training
) -> dict[str, Any]:
    again = _one(place, size)
    if one is None or again is None:
        return {}
    row = {
        "d_model, layers, length": f"{size.d_model}, {size.n_layers}, {size.seq_len}",
        "precision": size.precision,
        "examples a step": size.batch,
        "steps": size.epochs * size.steps,
        "loss, first epoch": one.losses[0],
        "loss, last epoch": one.losses[-1],
        f"largest difference, {processes} and 1": _difference(one, many),
        "1 and 1 again": _difference(one, again),
    }
    _report(row)
    return row


def _difference(one: Training, other: Training) -> float:
    return max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))


def _scaling(
    kind: str, processes: int, batch_of_one: int, one: Training, many: Training, gain: int
) -> dict[str, Any]:
    return {
        "scaling": kind,
        "examples a step, 1": batch_of_one,
        f"examples a step, {processes}": batch_of_one * processes // gain,
        "steps a second, 1": one.steps_per_second,
        f"steps a second, {processes}": many.steps_per_second,
        "efficiency": many.steps_per_second / one.steps_per_second / gain,
    }


def _report(*rows: dict[str, Any]) -> None:
    for row in rows:
        print(row, file=sys.stderr, flush=True)

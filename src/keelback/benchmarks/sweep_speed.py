"""The Majority length-independence sweep against the same trainings one after the other."""

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from keelback.benchmarks.benchmark import Benchmark, Found, Group
from keelback.benchmarks.loop_baseline import train_by_loop
from keelback.benchmarks.runner_overhead import runner_overhead
from keelback.errors import JobError
from keelback.experiments import get_experiment
from keelback.models import model_config
from keelback.sweeps import RunResult, Store, TrainingRun, available_cores, sweep
from keelback.training import epoch_order

_OVERHEAD, _SWEEP = "runs that do nothing", "the sweep"
"""Names of what is measured beside the rows of the lengths."""


def benchmark(
    lengths: Sequence[int | str] | None = None,
    seeds: int = 5,
    epochs: int | None = None,
    workers: int | None = None,
    empty_runs: int = 10_000,
) -> Benchmark:
    """Time the sweep whole, both of its alternatives on samples of the same trainings, and no work.

    `one_by_one` trains seed 1 at every length as the only run of its batch, in this process, and
    multiplies by the number of seeds. `plain_loop` times one epoch of seed 1 at every length and
    multiplies by the numbers of epochs and seeds; making the data and scoring the models are left
    out of it, and its loss must be that of keelback's training: if not, measuring raises a
    JobError. `overhead` is that of `runner_overhead`.

    Raises:
        InputError: a value is wrong, or this machine lacks the memory for their sizes.
    """
    runs = require_sweep(lengths, seeds, epochs)
    workers = workers or available_cores()
    firsts = [run for run in runs if run.seed == runs[0].seed]
    about = {
        "lengths": [run.task_settings["seq_len"] for run in firsts],
        "seeds": seeds,
        "epochs": runs[0].recipe.epochs,
        "workers": workers,
    }
    groups = [
        Group({_OVERHEAD: empty_runs}, partial(_overheads, workers)),
        Group({_SWEEP: runs}, partial(_whole, workers)),
        Group(
            {f"length {run.task_settings['seq_len']}": run for run in firsts},
            partial(_rows, runs[0], seeds),
        ),
    ]
    return Benchmark(groups, partial(_result, workers, len(firsts)), about)


def _overheads(workers: int, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    for runs in counts:
        yield runner_overhead(runs, workers)


def _whole(workers: int, sweeps: Sequence[Sequence[TrainingRun]]) -> Iterator[dict[str, float]]:
    for runs in sweeps:
        with tempfile.TemporaryDirectory(prefix="keelback-bench-") as folder:
            started = time.perf_counter()
            sweep(runs, Store.create(Path(folder) / "sweep"), workers=workers)
            yield {"sweep_s": time.perf_counter() - started, "load_average": os.getloadavg()[0]}


def _rows(first: TrainingRun, seeds: int, runs: Sequence[TrainingRun]) -> Iterator[dict[str, Any]]:
    _warm_up(first)
    for run in runs:
        yield _row(run, seeds)


def _result(workers: int, lengths: int, found: Found) -> dict[str, Any]:
    """Sums and ratios only once all that they are of is there."""
    rows = [row for name, row in found.items() if name not in (_OVERHEAD, _SWEEP)]
    whole = found.get(_SWEEP)
    result: dict[str, Any] = {}
    if whole is not None:
        result["sweep_s"] = whole["sweep_s"]
    if whole is not None and len(rows) == lengths:
        result |= _compared(workers, whole["sweep_s"], rows)
    result["rows"] = rows
    if whole is not None:
        result["load_average"] = whole["load_average"]
    return result | ({"overhead": found[_OVERHEAD]} if _OVERHEAD in found else {})


def _compared(workers: int, ours: float, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    one_by_one = sum(row["one_by_one_s"] for row in rows)
    plain_loop = sum(row["plain_loop_s"] for row in rows)
    return {
        "one_by_one_s": one_by_one,
        "plain_loop_s": plain_loop,
        "ratio_to_one_by_one": one_by_one / ours,
        "ratio_to_plain_loop": plain_loop / ours,
        "extrapolated": {
            "one_by_one_s": "one seed measured at each length",
            "plain_loop_s": "one epoch of one seed measured at each length",
        },
        "summary": [
            {"the same trainings": name, "seconds": seconds, "times as long": seconds / ours}
            for name, seconds in (
                (f"keelback's sweep, {workers} processes", ours),
                ("keelback, one training after the other", one_by_one),
                ("a plain Python loop over time, one after the other", plain_loop),
            )
        ],
    }


def require_sweep(
    lengths: Sequence[int | str] | None, seeds: int, epochs: int | None
) -> Sequence[TrainingRun]:
    """The runs of the sweep.

    Raises:
        InputError: a value is wrong, or this machine lacks the memory for their sizes.
    """
    experiment = get_experiment("length-independence")
    given = {"task": "majority", "seq_len": lengths, "seeds": seeds, "epochs": epochs}
    chosen = {name: value for name, value in given.items() if value is not None}
    return cast(Sequence[TrainingRun], experiment.planned(experiment.settings(chosen)))


def _warm_up(run: TrainingRun) -> None:
    """Load the compiled kernels, which the sweep's workers have to do in their own time."""
    recipe = run.recipe.model_copy(update={"epochs": 1})
    for _ in TrainingRun.execute([run.model_copy(update={"recipe": recipe})], lambda share: None):
        pass


def _row(run: TrainingRun, seeds: int) -> dict[str, Any]:
    started = time.perf_counter()
    [(_, result)] = TrainingRun.execute([run], lambda share: None)
    alone = time.perf_counter() - started
    model = model_config(run.model).build(torch.Generator().manual_seed(run.seed))
    split = run.get_task().split("train")
    order = epoch_order(run.seed, 1, len(split))
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    loop, loss = train_by_loop(weights, split, order, run.recipe)
    _require_same_loss(run, loss, result)
    return {
        "seq_len": run.task_settings["seq_len"],
        "one_by_one_s": alone * seeds,
        "plain_loop_epoch_s": loop,
        "plain_loop_s": loop * run.recipe.epochs * seeds,
    }


def _require_same_loss(run: TrainingRun, loss: float, result: RunResult) -> None:
    ours = result.history[1]["loss"]
    if ours is None or not math.isclose(loss, float(ours), rel_tol=1e-3):
        raise JobError(
            f"the plain loop's loss after an epoch at T = {run.task_settings['seq_len']} is "
            f"{loss:.6g}, keelback's is {ours}: they are not the same training"
        )

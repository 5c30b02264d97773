"""What the training monitor foresees: real trainings that diverge, and real ones that do not."""

import csv
import io
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.audit import Action, TrainingMonitor, find_layers
from keelback.benchmarks.benchmark import Benchmark, Found, Group
from keelback.benchmarks.monitor_trainings import FAMILIES, Family, Setting
from keelback.benchmarks.timing import interleaved_medians
from keelback.errors import JobError
from keelback.models import MambaLanguageModelConfig


@dataclass(frozen=True)
class Training:
    """One training: where it died, if it did, and where the monitor first warned, if it did.

    It has died where the loss or the norm of its gradient is no longer finite. `saved` and
    `saved_loss` are of the same training with the monitor acting: whether it lives, and its last
    loss.
    """

    family: str
    setting: Setting
    seed: int
    died_at: int | None
    warned_at: int | None
    steps_left_said: float | None
    saved: bool | None = None
    saved_loss: float | None = None


def benchmark(
    seeds: Sequence[int],
    report: Callable[[Training], None] = lambda training: None,
    families: Sequence[Family] = FAMILIES,
) -> Benchmark:
    """Watch trainings of each family; those that die are run again with the monitor acting.

    Its result has counts of each of the `families`, and all `trainings`; `report` is told each.
    """

    def trainings(chosen: Sequence[tuple[Family, Setting, int]]) -> Iterator[dict[str, Any]]:
        for family, setting, seed in chosen:
            training = _watched(family, setting, seed)
            report(training)
            yield asdict(training)

    rows = {
        f"{family.name}, {in_words(setting)}, seed {seed}": (family, setting, seed)
        for family in families
        for setting in family.settings()
        for seed in seeds
    }
    return Benchmark([Group(rows, trainings)], partial(_result, families))


def in_words(setting: Setting) -> str:
    """The values of a setting by their names."""
    return ", ".join(f"{name} {value}" for name, value in setting.items())


def _result(families: Sequence[Family], found: Found) -> dict[str, Any]:
    trainings = [Training(**one) for one in found.values()]
    return {
        "families": [
            _counts(family, [one for one in trainings if one.family == family.name])
            for family in families
        ],
        "trainings": list(found.values()),
    }


def _counts(family: Family, found: Sequence[Training]) -> dict[str, Any]:
    died = [one for one in found if one.died_at is not None]
    lived = [one for one in found if one.died_at is None]
    foreseen = [one for one in died if one.warned_at is not None]
    return {
        "family": family.name,
        "every": family.every,
        "action": family.action,
        "died": len(died),
        "foreseen": len(foreseen),
        "before_the_first_step": sum(one.warned_at == 0 for one in foreseen),
        "updates_before": [
            one.died_at - one.warned_at
            for one in foreseen
            if one.died_at is not None and one.warned_at is not None
        ],
        "saved": sum(bool(one.saved) for one in died),
        "healthy": len(lived),
        "false_alarms": sum(one.warned_at is not None for one in lived),
    }


def summary_csv(found: Mapping[str, Any]) -> str:
    """The counts as a CSV file with a row for each family."""
    file = io.StringIO()
    rows = [_row(counts) for counts in found["families"]]
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _row(counts: Mapping[str, Any]) -> dict[str, Any]:
    before = counts["updates_before"]
    return {
        "trainings": counts["family"],
        "a reading every": counts["every"],
        "died": counts["died"],
        "foreseen": counts["foreseen"],
        "of these before the first step": counts["before_the_first_step"],
        "updates before, median": statistics.median(before) if before else "",
        "updates before, least": min(before) if before else "",
        "live with the action": counts["saved"],
        "action": counts["action"],
        "healthy": counts["healthy"],
        "false alarms": counts["false_alarms"],
    }


def _watched(family: Family, setting: Setting, seed: int) -> Training:
    died, _, monitor = _train(family, setting, seed, "warn")
    first = monitor.alarms[0] if monitor.alarms else None
    training = Training(
        family.name,
        setting,
        seed,
        died,
        None if first is None else first.step,
        None if first is None or math.isinf(first.steps_left) else first.steps_left,
    )
    if died is None:
        return training
    again, loss, _ = _train(family, setting, seed, family.action)
    return replace(training, saved=again is None, saved_loss=loss)


def _train(
    family: Family, setting: Setting, seed: int, action: Action
) -> tuple[int | None, float | None, TrainingMonitor]:
    """The step at which a number overflows, if one does; the last loss; the monitor."""
    start = family.start(setting, seed)
    monitor = TrainingMonitor(start.model, every=family.every, action=action)
    limit = math.inf if start.clip_norm is None else start.clip_norm
    last = None
    for step, (tokens, loss_of_batch) in enumerate(start.batches):
        monitor.after_step(step, tokens, start.optimizer)
        loss = loss_of_batch()
        start.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(start.model.parameters(), limit)
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            return step, None, monitor
        start.optimizer.step()
        last = float(loss.detach())
    return None, last, monitor


def overhead_benchmark(every: int, repeats: int) -> Benchmark:
    """`overhead`, as one row."""

    def rows(counts: Sequence[int]) -> Iterator[dict[str, float]]:
        for count in counts:
            yield overhead(count, repeats)

    return Benchmark([Group({f"a reading every {every} steps": every}, rows)])


def overhead(every: int, repeats: int) -> dict[str, float]:
    """What a reading every `every` steps adds to the training steps of a byte-level Mamba.

    Steps and readings are timed in turns, and the medians compared.
    """
    torch.manual_seed(0)
    model = MambaLanguageModelConfig(vocab_size=256, d_model=128, n_layers=4).build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    tokens = torch.randint(256, (16, 256))
    monitor, steps = TrainingMonitor(model, every=1), itertools.count()
    milliseconds = interleaved_medians(
        {
            "step": lambda: _step(model, optimizer, tokens),
            # A step is read once, so that each call needs one of its own.
            "reading": lambda: monitor.after_step(next(steps), tokens, optimizer),
        },
        "cpu",
        repeats,
    )
    if len(monitor.readings) != next(steps) * len(find_layers(model)):
        raise JobError(f"the monitor did not read at every step: {monitor.failures}")
    return {
        "every": every,
        "step_ms": milliseconds["step"],
        "reading_ms": milliseconds["reading"],
        "overhead": milliseconds["reading"] / (every * milliseconds["step"]),
    }


def _step(model: Any, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
    logits = model(tokens)[:, :-1]
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

"""What the training monitor foresees: real trainings that diverge, and real ones that do not."""

import csv
import io
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from keelback.audit import TrainingMonitor
from keelback.benchmarks.timing import interleaved_medians
from keelback.data import Majority, MajoritySettings, Split
from keelback.models import MambaLanguageModelConfig, SelectiveSSMConfig
from keelback.training import Recipe
from keelback.training.recipe import replica_losses

LENGTHS = (300, 600, 1000, 2000)
ABSCISSAE = (-0.05, 0.0, 0.05)
EXAMPLES = 500
EPOCHS = 4


@dataclass(frozen=True)
class Training:
    """One training: where it died, if it did, and where the monitor first warned, if it did."""

    seq_len: int
    spectral_abscissa: float
    seed: int
    died_at: int | None
    warned_at: int | None
    steps_left_said: float | None
    clipped_died_at: int | None = None
    clipped_loss: float | None = None


def foresight(
    seeds: Sequence[int], every: int, report: Callable[[Training], None] = lambda training: None
) -> dict[str, Any]:
    """Train selective SSMs on Majority by arXiv 2502.01473's recipe, from starts stable and not.

    Every training that dies is run again with the monitor clipping.
    """
    found = []
    for seq_len, abscissa, seed in itertools.product(LENGTHS, ABSCISSAE, seeds):
        found.append(_watched(seq_len, abscissa, seed, every))
        report(found[-1])
    died = [one for one in found if one.died_at is not None]
    lived = [one for one in found if one.died_at is None]
    foreseen = [one for one in died if one.warned_at is not None]
    return {
        "every": every,
        "trainings": [asdict(one) for one in found],
        "died": len(died),
        "foreseen": len(foreseen),
        "warned_before_the_first_step": sum(one.warned_at == 0 for one in foreseen),
        "updates_before": [
            one.died_at - one.warned_at
            for one in foreseen
            if one.died_at is not None and one.warned_at is not None
        ],
        "survived_with_clipping": sum(one.clipped_died_at is None for one in died),
        "healthy": len(lived),
        "false_alarms": sum(one.warned_at is not None for one in lived),
    }


def summary_csv(found: Mapping[str, Any]) -> str:
    """The counts of `foresight` as a CSV file of one row."""
    before = found["updates_before"]
    row = {
        "died": found["died"],
        "foreseen": found["foreseen"],
        "of these before the first step": found["warned_before_the_first_step"],
        "median updates before": statistics.median(before) if before else "",
        "survive with clipping": found["survived_with_clipping"],
        "healthy": found["healthy"],
        "false alarms": found["false_alarms"],
    }
    file = io.StringIO()
    writer = csv.DictWriter(file, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerow(row)
    return file.getvalue()


def _watched(seq_len: int, abscissa: float, seed: int, every: int) -> Training:
    task = Majority(MajoritySettings(seq_len=seq_len, data_seed=seed, n_train=EXAMPLES, n_test=1))
    split = task.split("train")
    died, _, monitor = _train(split, abscissa, seed, every, clip=False)
    first = monitor.alarms[0] if monitor.alarms else None
    training = Training(
        seq_len,
        abscissa,
        seed,
        died,
        None if first is None else first.step,
        None if first is None or math.isinf(first.steps_left) else first.steps_left,
    )
    if died is None:
        return training
    again, loss, _ = _train(split, abscissa, seed, every, clip=True)
    fields = asdict(training) | {"clipped_died_at": again, "clipped_loss": loss}
    return Training(**fields)


def _train(
    split: Split, abscissa: float, seed: int, every: int, *, clip: bool
) -> tuple[int | None, float | None, TrainingMonitor]:
    """The step at which a number overflows, if one does; the last loss; the monitor."""
    generator = torch.Generator().manual_seed(seed)
    recipe = Recipe()
    model = SelectiveSSMConfig(vocab_size=2, spectral_abscissa=abscissa).build(generator)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    monitor = TrainingMonitor(model, every=every, action="clip" if clip else "warn")
    step, last = 0, None
    for _ in range(EPOCHS):
        order = torch.randperm(len(split), generator=generator)
        for rows in order.split(recipe.batch_size):
            tokens, labels = split.tokens[rows], split.labels[rows]
            monitor.after_step(step, tokens, optimizer)
            loss = replica_losses(model(tokens)[None], labels[None], recipe).sum()
            optimizer.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
                return step, None, monitor
            optimizer.step()
            step, last = step + 1, float(loss.detach())
    return None, last, monitor


def overhead(every: int, repeats: int) -> dict[str, float]:
    """What a reading every `every` steps adds to the training steps of a byte-level Mamba.

    Steps and readings are timed in turns, and the medians compared.
    """
    torch.manual_seed(0)
    model = MambaLanguageModelConfig(vocab_size=256, d_model=128, n_layers=4).build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    tokens = torch.randint(256, (16, 256))
    monitor = TrainingMonitor(model, every=1)
    milliseconds = interleaved_medians(
        {
            "step": lambda: _step(model, optimizer, tokens),
            "reading": lambda: monitor.after_step(0, tokens, optimizer),
        },
        "cpu",
        repeats,
    )
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

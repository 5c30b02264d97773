"""What figures call tasks and models, and the lines that a score is to be held against."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from keelback.data import get_task
from keelback.errors import InputError
from keelback.outcome import Mark
from keelback.sweeps.store import StoredRun

_NAMES = {
    "imdb": "IMDb",
    "listops": "ListOps",
    "majority": "Majority",
    "softmax-attention": "softmax attention",
    "linear-attention": "linear attention",
    "lti-ssm": "LTI SSM",
    "rnn": "RNN",
    "selective-ssm": "selective SSM",
    "mamba-stack": "stack of Mamba blocks",
}


def in_words(name: str) -> str:
    """What people call a task or a kind of model; a plugin's own name stays as it is."""
    return _NAMES.get(name, name)


def guessing_marks(runs: Sequence[StoredRun], paths: Mapping[str, Path]) -> list[Mark]:
    """Lines at the accuracies that need no input: a uniform guess, and the most frequent class.

    The share of the most frequent class is that of the test examples, at the shortest and at the
    longest length of the runs; there is no such line where the examples cannot be read again.
    """
    classes = int(runs[0].fields["model"]["n_classes"])
    chance = 1 / classes
    alike = sorted(runs, key=lambda run: int(run.fields["task_settings"].get("seq_len") or 0))
    shares = {share for run in (alike[0], alike[-1]) if (share := _share(run, paths)) is not None}
    if all(abs(share - chance) < 0.01 for share in shares) and shares:
        return [Mark(chance, "chance, and the most frequent class", "y")]
    marks = [Mark(chance, f"chance ({classes} classes)", "y")]
    return [*marks, *(Mark(share, "most frequent class", "y") for share in sorted(shares)[-1:])]


def _share(run: StoredRun, paths: Mapping[str, Path]) -> float | None:
    known = {name: str(path) for name, path in paths.items()}
    settings: dict[str, Any] = run.fields["task_settings"] | known
    return _share_of(str(run.fields["task"]), json.dumps(settings, sort_keys=True))


@lru_cache(maxsize=64)
def _share_of(task: str, settings: str) -> float | None:
    """The share of the most frequent class among the test examples."""
    try:
        labels = get_task(task, **json.loads(settings)).split("test").labels
    except (InputError, OSError):
        return None
    return float(labels.flatten().bincount().max()) / labels.numel()

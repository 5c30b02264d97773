"""What figures call tasks and models, and the lines that a score is to be held against."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

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

_SAMPLES = 20


def in_words(name: str) -> str:
    """What people call a task or a kind of model; a plugin's own name stays as it is."""
    return _NAMES.get(name, name)


def guessing_marks(runs: Sequence[StoredRun], paths: Mapping[str, Path]) -> list[Mark]:
    """Lines at the accuracies that need no input: a uniform guess, and the most frequent class.

    The most frequent class is that of the test examples of several runs together, since a single
    sample of them may favour any; there is no such line where they cannot be read again.
    """
    classes = int(runs[0].fields["model"]["n_classes"])
    chance = 1 / classes
    share = _most_frequent(runs, paths)
    if share is not None and abs(share - chance) < 0.01:
        return [Mark(chance, "chance, and the most frequent class", "y")]
    marks = [Mark(chance, f"chance ({classes} classes)", "y")]
    return marks if share is None else [*marks, Mark(share, "most frequent class", "y")]


def _most_frequent(runs: Sequence[StoredRun], paths: Mapping[str, Path]) -> float | None:
    """The share of the most frequent class in the test examples of `_SAMPLES` runs at most."""
    known = {name: str(path) for name, path in paths.items()}
    described = {
        (str(run.fields["task"]), json.dumps(run.fields["task_settings"] | known, sort_keys=True))
        for run in runs
    }
    every = max(1, math.ceil(len(described) / _SAMPLES))
    counts: Counter[int] = Counter()
    for task, settings in sorted(described)[::every]:
        found = _counts(task, settings)
        if found is None:
            return None
        counts.update(found)
    return max(counts.values()) / counts.total()


@lru_cache(maxsize=256)
def _counts(task: str, settings: str) -> Counter[int] | None:
    """How many test examples have each label."""
    try:
        labels = get_task(task, **json.loads(settings)).split("test").labels
    except (InputError, OSError):
        return None
    return Counter(labels.flatten().tolist())

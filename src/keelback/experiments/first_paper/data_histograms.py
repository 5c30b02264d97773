"""The two data figures of arXiv 2502.01473: ones in Majority, tokens in IMDb."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, PositiveInt

from keelback.data import SPLIT_NAMES, IMDb, Majority, Task, get_task
from keelback.errors import InputError
from keelback.experiments.experiment import Experiment, Settings
from keelback.outcome import Figure, Histogram, Outcome, Panel
from keelback.sweeps.run import Run
from keelback.sweeps.store import StoredRun

ONES_PER_BAR = 10
TOKENS_PER_BAR = 50
ONES_LENGTH = 200
"""Length of the Majority strings whose ones the paper counts."""


class DataHistogramsSettings(Settings):
    """Whose data to draw, and where they lie; the sizes are the paper's."""

    task: Literal["majority", "imdb"] = "majority"
    seq_len: PositiveInt | None = None
    data_seed: int = Field(default=1, ge=0, le=2**32 - 1)
    data: Path | None = None
    tokenizer: Path | None = None

    @property
    def label(self) -> str:
        """The task."""
        return self.task


class DataHistograms(Experiment[DataHistogramsSettings]):
    """What the data look like; trains nothing."""

    name: ClassVar[str] = "data-histograms"
    summary: ClassVar[str] = "how many ones, how many tokens do the sequences have?"
    settings_type = DataHistogramsSettings
    tasks: ClassVar[tuple[str, ...]] = ("majority", "imdb")

    def runs(self, settings: DataHistogramsSettings) -> Sequence[Run]:
        """None; the data are read here all the same, so that what is wrong with them shows first.

        Raises:
            InputError: the data cannot be had, or are damaged.
        """
        task = _task(settings)
        task.require_room()
        if isinstance(task, IMDb):
            for name in SPLIT_NAMES:
                task.tokenised(name)
        return []

    def outcome(self, settings: DataHistogramsSettings, results: Sequence[StoredRun]) -> Outcome:
        """The histogram of the task's training and test split."""
        task = _task(settings)
        figure = review_lengths(task) if isinstance(task, IMDb) else ones_in_majority(task)
        return Outcome(
            experiment=f"{self.name}-{settings.label}",
            title=figure.title,
            summary=figure.caption,
            figures=[figure],
            numbers={
                "task": settings.task,
                "histograms": [
                    {
                        "panel": panel.title,
                        "label": histogram.label,
                        "edges": list(histogram.edges),
                        "counts": list(histogram.counts),
                    }
                    for panel in figure.panels
                    for histogram in panel.histograms
                ],
            },
        )


def _task(settings: DataHistogramsSettings) -> Majority | IMDb:
    given: dict[str, Any] = {"data": settings.data, "tokenizer": settings.tokenizer}
    if settings.task == "majority":
        given |= {"seq_len": settings.seq_len or ONES_LENGTH, "data_seed": settings.data_seed}
    elif settings.seq_len is None:
        given["seq_len"] = 2
    else:
        raise InputError("the reviews are counted whole: leave --seq-len out")
    task: Task = get_task(settings.task, **given)
    assert isinstance(task, Majority | IMDb)
    return task


def ones_in_majority(task: Majority) -> Figure:
    """How many ones the strings of each split hold; the paper's has T = 200 and 1000 strings."""
    seq_len = task.settings.seq_len
    edges = np.arange(-0.5, seq_len + ONES_PER_BAR, ONES_PER_BAR)
    panels = []
    for name in SPLIT_NAMES:
        split = task.split(name)
        ones = split.tokens.sum(1).numpy()
        histograms = [
            _histogram(ones[split.labels.numpy() == label], edges, f"label {label}")
            for label in (0, 1)
        ]
        panels.append(
            Panel(
                "number of ones",
                "strings",
                f"{name} ({len(split):,} strings)",
                histograms=histograms,
            )
        )
    return Figure(
        name="majority-ones",
        title=f"Number of ones, Majority, T = {seq_len}",
        panels=panels,
        caption=(
            "The number of ones is drawn uniformly. In the training split each one is then turned "
            f"to zero with probability {task.settings.flip_probability:g} and the label kept, so "
            "that the labels overlap and the largest numbers do not occur."
        ),
    )


def review_lengths(task: IMDb) -> Figure:
    """How many tokens the reviews have before they are cut, [CLS] and [SEP] included."""
    lengths = {name: task.tokenised(name).sequences.lengths for name in SPLIT_NAMES}
    longest = max(int(counts.max()) for counts in lengths.values())
    edges = np.arange(0, longest + TOKENS_PER_BAR + 1, TOKENS_PER_BAR)
    return Figure(
        name="imdb-lengths",
        title="Tokens in a review, IMDb",
        panels=[
            Panel(
                "tokens",
                "reviews",
                f"{name} ({len(counts):,} reviews)",
                histograms=[_histogram(counts, edges, name)],
                log_y=True,
            )
            for name, counts in lengths.items()
        ],
        caption="; ".join(
            f"{name}: median {np.median(counts):.0f}, 99th percentile "
            f"{np.percentile(counts, 99):.0f}, longest {counts.max()} tokens"
            for name, counts in lengths.items()
        )
        + ".",
    )


def _histogram(
    values: npt.NDArray[np.integer], edges: npt.NDArray[np.number], label: str
) -> Histogram:
    counts, _ = np.histogram(values, edges)
    return Histogram(edges.tolist(), counts.tolist(), label)

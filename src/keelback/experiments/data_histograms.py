"""The two data figures of arXiv 2502.01473: ones in Majority, tokens in IMDb."""

import numpy as np
import numpy.typing as npt

from keelback.data import SPLIT_NAMES, IMDb, Majority
from keelback.experiments.outcome import Figure, Histogram, Panel

ONES_PER_BAR = 10
TOKENS_PER_BAR = 50


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
            Panel("number of ones", "strings", f"{name} ({len(split)})", histograms=histograms)
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
                f"{name} ({len(counts)})",
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

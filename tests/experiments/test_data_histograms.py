"""The data figures count every example once, where it belongs."""

import numpy as np
import polars as pl
import pytest

from keelback.data import get_task
from keelback.experiments.first_paper.data_histograms import ones_in_majority, review_lengths


def totals(figure):
    return [sum(sum(h.counts) for h in panel.histograms) for panel in figure.panels]


def test_ones_in_majority():
    task = get_task("majority", seq_len=200, data_seed=1)
    figure = ones_in_majority(task)
    assert totals(figure) == [1000, 1000]
    train, test = figure.panels
    below, above = (np.array(h.counts) for h in test.histograms)
    edges = np.array(test.histograms[0].edges)
    assert not below[edges[:-1] > 100].any()
    assert not above[edges[1:] < 101].any()
    assert (below + above)[:20] == pytest.approx(np.full(20, 50), abs=25)
    noisy = np.array(train.histograms[1].counts)
    assert noisy[edges[:-1] > 180].sum() == 0, "a quarter of the ones is flipped"
    assert noisy[edges[1:] < 101].sum() > 0, "and the labels overlap"


def test_review_lengths(tmp_path, monkeypatch):
    monkeypatch.setenv("KEELBACK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n")
    words = {"train": [1, 2, 47, 48, 300], "test": [97, 98]}
    for split, counts in words.items():
        reviews = {"text": ["a " * n for n in counts], "label": [0] * len(counts)}
        pl.DataFrame(reviews).write_csv(tmp_path / f"{split}.csv")
    task = get_task("imdb", seq_len=8, data=tmp_path, tokenizer=tmp_path / "vocab.txt")
    figure = review_lengths(task)
    assert totals(figure) == [5, 2]
    train, test = (panel.histograms[0] for panel in figure.panels)
    assert train.counts[:2] == [3, 1], "two tokens are [CLS] and [SEP]"
    assert train.counts[6] == 1
    assert test.counts[:3] == [0, 1, 1]
    assert "longest 302 tokens; test: median 100" in figure.caption

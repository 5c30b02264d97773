"""Copies among examples: found, and what follows for a certificate."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keelback.certify import Overlap, certify_model, find_overlap
from keelback.certify._unseen import unseen
from keelback.data import Split, Task, get_task
from keelback.errors import InputError
from keelback.models import SelectiveSSMConfig


def text(seed: int, length: int = 300) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(1000) for _ in range(length)]


def test_exact_near_and_repeated_rows_are_told_apart() -> None:
    training = [text(seed) for seed in range(20)]
    near = list(training[3])
    near[100] = 5000
    again = text(50)
    nearly_again = [*again[:-1], 6000]
    sample = [text(60), list(training[7]), near, again, nearly_again, text(61), list(again)]
    found = find_overlap(sample, training)
    assert (found.exact, found.near, found.within) == ([1], [2], [4, 6])
    assert found.rows == [1, 2, 4, 6]
    assert found.kept(len(sample)) == [0, 3, 5]
    assert find_overlap(sample, training, near=False) == Overlap([1], [], [6])
    assert not find_overlap([text(60), text(61)], training)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=12),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=12),
)
def test_exact_copies_are_those_of_a_plain_search(
    sample: list[list[int]], training: list[list[int]]
) -> None:
    found = find_overlap(sample, training, near=False)
    assert found.exact == [i for i, row in enumerate(sample) if row in training]
    assert found.within == [i for i, row in enumerate(sample) if row in sample[:i]]


@pytest.mark.parametrize(("changed", "is_near"), [(2, True), (6, True), (40, False), (300, False)])
def test_near_means_four_fifths_of_the_shingles(changed: int, is_near: bool) -> None:
    """Each changed token takes five of 296 shingles: 2 leave 0.93 in common, 40 under 0.4."""
    original = text(1)
    copy = list(original)
    for place in range(0, 300, 300 // changed):
        copy[place] = 9000 + place
    assert bool(find_overlap([copy], [original]).near) is is_near


class LeakyTask(Task):
    """Data that no seed changes; the test split repeats `copies` training rows."""

    name = "leaky"
    n_classes = 2
    copies = 3
    vocab_size: int = 40  # type: ignore[assignment]

    def split(self, name: str) -> Split:
        draw = torch.Generator().manual_seed(0)
        tokens = torch.randint(40, (60, 30), generator=draw, dtype=torch.int32)
        rows = tokens[:40] if name == "train" else torch.cat([tokens[: self.copies], tokens[40:]])
        count = len(rows)
        return Split(rows, torch.arange(count) % 2, torch.full((count,), 30))


@pytest.fixture
def leaky() -> Iterator[Any]:
    yield LeakyTask(LeakyTask.settings_type())
    LeakyTask.copies = 3


def test_a_certificate_on_copies_is_refused_dropped_or_marked(leaky: LeakyTask) -> None:
    model = SelectiveSSMConfig.model_validate(
        {"vocab_size": 40, "spectral_abscissa": -0.2}
    ).build(torch.Generator().manual_seed(3))  # fmt: skip
    with pytest.raises(InputError, match=r"3 exact and 0 near copies of training examples and 0"):
        certify_model(model, leaky, pac_bayes=False)
    dropped = certify_model(model, leaky, pac_bayes=False, overlap="drop")
    assert dropped.held_out["test"].examples == 20
    assert dropped.as_dict()["overlap"]["test"] == {
        "exact": 3, "near": 0, "within": 0, "drawn": False, "policy": "drop", "counted": 20,
    }  # fmt: skip
    assert "less what copies the training examples" in dropped.verdict()
    allowed = certify_model(model, leaky, pac_bayes=False, overlap="allow")
    assert allowed.held_out["test"].examples == 23
    assert next(iter(allowed.as_dict())) == "notices"
    assert allowed.verdict().startswith("WARNING: among the test examples there are 3 exact")


def test_a_split_of_copies_alone_is_refused(leaky: LeakyTask) -> None:
    training = leaky.split("train")
    with pytest.raises(InputError, match="nothing is left to certify"):
        unseen(leaky, training, training, "test examples", "drop")


def test_data_without_copies_are_said_to_be_without(leaky: LeakyTask) -> None:
    LeakyTask.copies = 0
    found = unseen(leaky, leaky.split("test"), leaky.split("train"), "test examples", "refuse")
    assert found.notice("test examples") == (
        "Among the test examples there are 0 exact and 0 near copies of training examples and 0 "
        "repeated examples."
    )


def test_what_a_program_draws_may_coincide() -> None:
    task = get_task("majority", seq_len=4, n_train=30, n_test=30)
    found = unseen(task, task.split("test"), task.split("train"), "test examples", "refuse")
    assert found.drawn
    assert len(found.split) == 30
    assert "by chance" in found.notice("test examples")
    assert found.as_dict()["near"] is None
